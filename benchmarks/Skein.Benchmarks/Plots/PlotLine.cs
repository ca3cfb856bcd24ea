namespace Skein.Benchmarks.Plots;

internal readonly record struct PlotPoint(double X, double Y);

/// <summary>A line of a plot.</summary>
internal sealed record PlotLine(string Name, IReadOnlyList<PlotPoint> Points)
{
    /// <summary>Half the height of a band around the line, for each point; empty for none.</summary>
    public IReadOnlyList<double> Spread { get; init; } = [];
}

namespace Skein.Training.Planning;

/// <summary>A cost that grows linearly with the number of samples: seconds or bytes.</summary>
/// <param name="Fixed">Without any samples.</param>
/// <param name="PerSample">What each sample adds.</param>
public readonly record struct LinearCost(double Fixed, double PerSample)
{
    /// <summary>The cost of so many samples.</summary>
    public double At(double samples) => Fixed + (PerSample * samples);

    /// <summary>The line through two measurements, with different numbers of samples.</summary>
    public static LinearCost Through(int fewer, double cheaper, int more, double dearer)
    {
        double slope = (dearer - cheaper) / (more - fewer);
        return new LinearCost(cheaper - (slope * fewer), slope);
    }

    /// <summary>
    /// The same for what cannot be below 0 anywhere, however much the measurements scatter: where the line is, it goes through 0 and
    /// the larger measurement, or is level.
    /// </summary>
    public static LinearCost ThroughPositive(int fewer, double cheaper, int more, double dearer)
    {
        LinearCost line = Through(fewer, cheaper, more, dearer);
        return line.PerSample < 0 ? new LinearCost(dearer, 0) : line.Fixed < 0 ? new LinearCost(0, dearer / more) : line;
    }
}

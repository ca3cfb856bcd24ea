using System.CommandLine;
using Skein.Benchmarks.Plots;

namespace Skein.Benchmarks;

/// <summary>The picture of one training: the loss of each step.</summary>
internal static class LossCurve
{
    private const int Window = 50;

    private static readonly Argument<string[]> Training = new("TRAIN") { Description = "What skein train is to be given, after --" };
    private static readonly Option<string> Plot = new("--plot") { Required = true, Description = "Where to write the picture, as SVG" };

    public static Command Command()
    {
        var command = new Command("loss", "Draws the loss of one training") { Training, Plot, TrainRun.Skein };
        command.SetAction(RunAsync);
        return command;
    }

    private static async Task RunAsync(ParseResult parsed, CancellationToken cancellationToken)
    {
        string[] arguments = parsed.GetRequiredValue(Training);
        TrainRun run = await TrainRun.RunAsync(parsed.GetValue(TrainRun.Skein)!, arguments, cancellationToken);
        PlotPoint[] steps = [.. run.Losses.Select(static (point, step) => new PlotPoint(step, point.Y))];
        PlotPoint[] means = [.. run.Smoothed(Window).Select(static (point, index) => new PlotPoint(index + (Window / 2), point.Y))];
        new LinePlot(
            $"skein train {string.Join(' ', arguments)}", "step", "training loss, mean over the workers",
            [new PlotLine("single steps", steps), new PlotLine($"mean of {Window} steps", means)]).Save(parsed.GetRequiredValue(Plot));
    }
}

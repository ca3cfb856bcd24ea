using System.CommandLine;
using System.Globalization;
using Skein.Benchmarks.Plots;

namespace Skein.Benchmarks.ParameterServers;

/// <summary>
/// What weighting by staleness does: asynchronous workers, many for the machine and with momentum, so that gradients
/// are stale; each weighting at several learning rates, since a weighting is also a lower rate. Seeds alternate.
/// </summary>
internal static class StalenessBenchmark
{
    private const int Window = 30;

    // Digits have ten classes.
    private static readonly double Guessing = Math.Log(10);

    private static readonly Option<int> Seeds = new("--seeds") { DefaultValueFactory = static _ => 5 };
    private static readonly Option<int> Workers = new("--workers") { DefaultValueFactory = static _ => 8 };
    private static readonly Option<int> Epochs = new("--epochs") { DefaultValueFactory = static _ => 20 };
    private static readonly Option<double[]> Rates = new("--learning-rates") { DefaultValueFactory = static _ => [0.02, 0.04], AllowMultipleArgumentsPerToken = true };
    private static readonly Option<string[]> Weightings = new("--weightings") { DefaultValueFactory = static _ => ["none", "inverse", "polynomial:0.5"], AllowMultipleArgumentsPerToken = true };
    private static readonly Option<string?> Plot = new("--plot") { Description = "Where to write the curves at the last learning rate, as SVG" };

    public static Command Command()
    {
        var command = new Command("staleness", "Loss with and without weighting by staleness") { Seeds, Workers, Epochs, Rates, Weightings, Plot, TrainRun.Skein };
        command.SetAction(Run);
        return command;
    }

    private static async Task Run(ParseResult parsed, CancellationToken cancellationToken)
    {
        var runs = new Dictionary<(double Rate, string Weighting), List<TrainRun>>();
        for (int seed = 0; seed < parsed.GetValue(Seeds); seed++)
        {
            foreach (double rate in parsed.GetValue(Rates)!)
            {
                foreach (string weighting in parsed.GetValue(Weightings)!)
                {
                    TrainRun run = await TrainRun.RunAsync(
                        parsed.GetValue(TrainRun.Skein)!,
                        [
                            "digits", "--strategy", "parameter-server", "--consistency", "async", "--workers", $"{parsed.GetValue(Workers)}", "--epochs", $"{parsed.GetValue(Epochs)}",
                            "--learning-rate", rate.ToString(CultureInfo.InvariantCulture), "--staleness-weighting", weighting, "--allow-non-finite", "--seed", $"{seed}",
                        ],
                        cancellationToken);
                    if (!runs.TryGetValue((rate, weighting), out List<TrainRun>? alike)) runs[(rate, weighting)] = alike = [];
                    alike.Add(run);
                    Console.Error.WriteLine($"seed {seed}, rate {rate}, {weighting}: train {run.TrainLoss:f4}, test {run.TestLoss:f4}, mean staleness {run.MeanStaleness:f1}");
                }
            }
        }

        Print(runs);
        if (parsed.GetValue(Plot) is not { } path) return;
        double last = parsed.GetValue(Rates)![^1];
        new LinePlot(
            string.Create(CultureInfo.InvariantCulture, $"digits, {parsed.GetValue(Workers)} asynchronous workers, learning rate {last}"), "step of worker 0", "training loss, mean of the seeds",
            [.. runs.Where(entry => entry.Key.Rate == last).Select(static entry => MeanCurve(entry.Key.Weighting, entry.Value))]).Save(path);
    }

    private static void Print(Dictionary<(double Rate, string Weighting), List<TrainRun>> runs)
    {
        Console.WriteLine("| learning rate | weighting | train loss | test loss | no better than guessing | mean staleness |");
        Console.WriteLine("| --- | --- | --- | --- | --- | --- |");
        foreach (((double rate, string weighting), List<TrainRun> alike) in runs)
        {
            int lost = alike.Count(static run => !(run.TestLoss < 0.95 * Guessing));
            Console.WriteLine(string.Create(
                CultureInfo.InvariantCulture,
                $"| {rate} | {weighting} | {Spread(alike, static run => run.TrainLoss)} | {Spread(alike, static run => run.TestLoss)} | {lost} of {alike.Count} | {alike.Average(static run => run.MeanStaleness):f1} |"));
        }
    }

    private static string Spread(IEnumerable<TrainRun> runs, Func<TrainRun, double> value)
    {
        double[] finite = [.. runs.Select(value).Where(double.IsFinite)];
        if (finite.Length == 0) return "not finite";
        (double mean, double deviation) = Statistics.MeanAndDeviation(finite);
        return string.Create(CultureInfo.InvariantCulture, $"{mean:f4} ± {deviation:f4}");
    }

    private static PlotLine MeanCurve(string name, IReadOnlyList<TrainRun> runs)
    {
        IReadOnlyList<PlotPoint>[] curves = [.. runs.Select(static run => run.Smoothed(Window))];
        (double Mean, double Deviation)[] steps =
        [
            .. Enumerable.Range(0, curves.Min(static curve => curve.Count)).Select(step => Statistics.MeanAndDeviation([.. curves.Select(curve => curve[step].Y)])),
        ];
        return new PlotLine(name, [.. steps.Select(static (step, index) => new PlotPoint(index + (Window / 2), step.Mean))]) { Spread = [.. steps.Select(static step => step.Deviation)] };
    }
}

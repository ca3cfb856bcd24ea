using System.CommandLine;
using System.Globalization;
using Skein.Benchmarks.Plots;

namespace Skein.Benchmarks.ParameterServers;

/// <summary>
/// Loss against time where one of three workers is four times as slow. Rounds alternate the consistencies, each round
/// with a seed of its own; times to a loss are compared within a round, each consistency at the best of its rates.
/// </summary>
/// <remarks>
/// An asynchronous update has one worker's samples, a synchronous one those of all, so rates that suit them differ. The
/// loss is that of rank 0's batches, averaged over steps; time begins with the end of its first step, so that the start
/// of processes does not count.
/// </remarks>
internal static class StragglerBenchmark
{
    private const int Workers = 3;

    private static readonly Option<int> Rounds = new("--rounds") { DefaultValueFactory = static _ => 2 };
    private static readonly Option<double[]> Rates = Numbers("--learning-rates", [0.06, 0.12], "Of the synchronous runs");
    private static readonly Option<double[]> AsynchronousRates = Numbers("--asynchronous-learning-rates", [0.02, 0.04], "Of the others");
    private static readonly Option<double[]> Losses = Numbers("--losses", [0.6, 0.5, 0.4], "The losses that are waited for");
    private static readonly Option<string[]> Consistencies = new("--consistencies") { DefaultValueFactory = static _ => ["bsp", "async"], AllowMultipleArgumentsPerToken = true, Description = "What to compare; the first is what the others are compared with" };
    private static readonly Option<string> Model = new("--model") { DefaultValueFactory = static _ => "cnn" };
    private static readonly Option<string> Optimizer = new("--server-optimizer") { DefaultValueFactory = static _ => "momentum" };
    private static readonly Option<int> Batch = new("--batch-size") { DefaultValueFactory = static _ => 192, Description = "Samples of a synchronous step, over all workers" };
    private static readonly Option<string> Straggler = new("--straggler") { DefaultValueFactory = static _ => "2:4" };
    private static readonly Option<int> Epochs = new("--epochs") { DefaultValueFactory = static _ => 2 };
    private static readonly Option<int> Window = new("--window") { DefaultValueFactory = static _ => 30, Description = "Steps that a loss is averaged over" };
    private static readonly Option<string?> Plot = new("--plot") { Description = "Where to write the curves of the first round, as SVG" };

    public static Command Command()
    {
        var command = new Command("straggler", "Time to the same loss with one slow worker, synchronous against asynchronous")
        {
            Rounds, Rates, AsynchronousRates, Losses, Consistencies, Model, Optimizer, Batch, Straggler, Epochs, Window, Plot, TrainRun.Skein,
        };
        command.SetAction(Run);
        return command;
    }

    private static async Task Run(ParseResult parsed, CancellationToken cancellationToken)
    {
        Configuration[] configurations =
        [
            .. parsed.GetValue(Consistencies)!.SelectMany(consistency =>
                parsed.GetValue(consistency == "bsp" ? Rates : AsynchronousRates)!.Select(rate => new Configuration(consistency, rate))),
        ];
        var curves = configurations.ToDictionary(static configuration => configuration, static _ => new List<IReadOnlyList<PlotPoint>>());
        for (int round = 0; round < parsed.GetValue(Rounds); round++)
        {
            foreach (Configuration configuration in configurations)
            {
                TrainRun run = await TrainRun.RunAsync(
                    parsed.GetValue(TrainRun.Skein)!,
                    [
                        "fashion-mnist", "--model", parsed.GetValue(Model)!, "--server-optimizer", parsed.GetValue(Optimizer)!, "--strategy", "parameter-server", "--workers", $"{Workers}", "--straggler", parsed.GetValue(Straggler)!,
                        "--epochs", $"{parsed.GetValue(Epochs)}", "--batch-size", $"{parsed.GetValue(Batch)}", "--consistency", configuration.Consistency,
                        "--learning-rate", configuration.Rate.ToString(CultureInfo.InvariantCulture), "--seed", $"{round}",
                    ],
                    cancellationToken);
                IReadOnlyList<PlotPoint> curve = run.Smoothed(parsed.GetValue(Window));
                curves[configuration].Add(curve);
                Console.Error.WriteLine($"round {round + 1}: {configuration}: {run.Losses[^1].X:f1} s, loss {curve[^1].Y:f3}, test loss {run.TestLoss:f3}, mean staleness {run.MeanStaleness:f2}");
            }
        }

        Print(curves, parsed.GetValue(Losses)!);
        if (parsed.GetValue(Plot) is not { } path) return;
        new LinePlot(
            $"fashion-mnist {parsed.GetValue(Model)}, {Workers} workers, one of them slow ({parsed.GetValue(Straggler)})", "seconds", "training loss of worker 0",
            [.. curves.Select(static curve => new PlotLine($"{curve.Key}", curve.Value[0]))])
        { Highest = 1 }.Save(path);
    }

    private static void Print(Dictionary<Configuration, List<IReadOnlyList<PlotPoint>>> curves, double[] losses)
    {
        Console.WriteLine($"| seconds to a loss of | {string.Join(" | ", losses)} |");
        Console.WriteLine($"| --- |{string.Concat(losses.Select(static _ => " --- |"))}");
        foreach ((Configuration configuration, List<IReadOnlyList<PlotPoint>> rounds) in curves)
        {
            Console.WriteLine($"| {configuration} | {string.Join(" | ", losses.Select(loss => Words(rounds.Select(curve => TimeTo(curve, loss)))))} |");
        }

        IGrouping<string, KeyValuePair<Configuration, List<IReadOnlyList<PlotPoint>>>>[] kinds = [.. curves.GroupBy(static curve => curve.Key.Consistency)];
        Console.WriteLine();
        Console.WriteLine($"| {kinds[0].Key}'s time over that of | {string.Join(" | ", losses)} |");
        Console.WriteLine($"| --- |{string.Concat(losses.Select(static _ => " --- |"))}");
        foreach (var kind in kinds.Skip(1))
        {
            Console.WriteLine($"| {kind.Key} | {string.Join(" | ", losses.Select(loss => Words(Best(kinds[0], loss).Zip(Best(kind, loss), static (slow, fast) => slow / fast))))} |");
        }
    }

    /// <summary>The shortest time in each round.</summary>
    private static IEnumerable<double> Best(IEnumerable<KeyValuePair<Configuration, List<IReadOnlyList<PlotPoint>>>> kind, double loss) =>
        Enumerable.Range(0, kind.First().Value.Count).Select(round => kind.Min(curve => TimeTo(curve.Value[round], loss)));

    private static string Words(IEnumerable<double> values)
    {
        double[] all = [.. values];
        return !all.All(static value => double.IsFinite(value) && value > 0) ? "not reached" : all.Length == 1 ? $"{all[0]:f2}" : $"{Statistics.Median(all):f2} ({all.Min():f2} to {all.Max():f2})";
    }

    /// <summary>The first time at which the loss is reached, or infinity.</summary>
    private static double TimeTo(IReadOnlyList<PlotPoint> curve, double loss) =>
        curve.Where(point => point.Y <= loss).Select(static point => point.X).FirstOrDefault(double.PositiveInfinity);

    private static Option<double[]> Numbers(string name, double[] values, string description) =>
        new(name) { DefaultValueFactory = _ => values, AllowMultipleArgumentsPerToken = true, Description = description };

    private sealed record Configuration(string Consistency, double Rate)
    {
        public override string ToString() => string.Create(CultureInfo.InvariantCulture, $"{Consistency}, rate {Rate}");
    }
}

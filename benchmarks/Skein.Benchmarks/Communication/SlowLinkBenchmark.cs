using System.CommandLine;
using System.Globalization;
using Skein.Benchmarks.Plots;

namespace Skein.Benchmarks.Communication;

/// <summary>
/// The time to a test accuracy over an emulated slow network. How many steps a method needs does not depend on the network,
/// so they are sought without it, in stretches; then so many steps are timed with it.
/// </summary>
internal static class SlowLinkBenchmark
{
    private static readonly Option<double> Accuracy = new("--accuracy") { DefaultValueFactory = static _ => 0.88 };
    private static readonly Option<int> Workers = new("--workers") { DefaultValueFactory = static _ => 4 };
    private static readonly Option<string> Bandwidth = new("--bandwidth") { DefaultValueFactory = static _ => "100Mbit" };
    private static readonly Option<string> Latency = new("--latency") { DefaultValueFactory = static _ => "1ms" };
    private static readonly Option<int> Stretch = new("--stretch") { DefaultValueFactory = static _ => 100, Description = "Steps between two looks at the accuracy" };
    private static readonly Option<int> Seed = new("--seed");
    private static readonly Option<string[]> Methods = new("--methods") { DefaultValueFactory = static _ => ["none", "fp16", "int8", "qsgd:4", "topk:0.01", "powersgd:2", "diloco"], AllowMultipleArgumentsPerToken = true };
    private static readonly Option<string?> Plot = new("--plot") { Description = "Where to write losses by time, as SVG" };

    public static Command Command()
    {
        var command = new Command("slow-link", "Time to an accuracy over a slow network") { Accuracy, Workers, Bandwidth, Latency, Stretch, Seed, Methods, Plot, TrainRun.Skein };
        command.SetAction(Run);
        return command;
    }

    private static async Task Run(ParseResult parsed, CancellationToken cancellationToken)
    {
        var lines = new List<PlotLine>();
        double? reference = null;
        Console.WriteLine("| method | steps | test accuracy | seconds | of these waiting for others | MB sent by a worker | times faster |");
        Console.WriteLine("| --- | --- | --- | --- | --- | --- | --- |");
        foreach (Method method in Method.Named(parsed.GetValue(Methods)!))
        {
            int steps = await StepsNeeded(parsed, method, cancellationToken);
            TrainRun run = await Train(parsed, method, steps, slow: true, cancellationToken);
            reference ??= run.WallSeconds;
            double waiting = run.Summary.GetProperty("communication_seconds").GetDouble();
            Console.WriteLine(string.Create(
                CultureInfo.InvariantCulture,
                $"| {method.Name} | {steps} | {run.TestAccuracy:f4} | {run.WallSeconds:f1} | {waiting:f1} | {run.BytesSentPerWorker / 1e6:f1} | {reference / run.WallSeconds:f1} |"));
            lines.Add(new PlotLine(method.Name, run.Smoothed(50)));
        }

        if (parsed.GetValue(Plot) is not { } path) return;
        new LinePlot(
            string.Create(CultureInfo.InvariantCulture, $"fashion-mnist cnn, {parsed.GetValue(Workers)} workers, {parsed.GetValue(Bandwidth)}/s, until {parsed.GetValue(Accuracy)} accuracy"),
            "seconds", "training loss of rank 0, mean of 50 steps", lines).Save(path);
    }

    private static async Task<int> StepsNeeded(ParseResult parsed, Method method, CancellationToken cancellationToken)
    {
        for (int steps = parsed.GetValue(Stretch); ; steps += parsed.GetValue(Stretch))
        {
            TrainRun run = await Train(parsed, method, steps, slow: false, cancellationToken);
            Console.Error.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{method.Name}: {run.TestAccuracy:f4} after {steps} steps"));
            if (run.TestAccuracy >= parsed.GetValue(Accuracy)) return steps;
        }
    }

    private static Task<TrainRun> Train(ParseResult parsed, Method method, int steps, bool slow, CancellationToken cancellationToken)
    {
        string[] launch = slow ? ["-n", $"{parsed.GetValue(Workers)}", "--emulate-bandwidth", parsed.GetValue(Bandwidth)!, "--emulate-latency", parsed.GetValue(Latency)!] : ["-n", $"{parsed.GetValue(Workers)}"];
        string[] common = ["fashion-mnist", "--model", "cnn", "--epochs", "100", "--max-steps", $"{steps}", "--seed", $"{parsed.GetValue(Seed)}"];
        return TrainRun.RunAsync(parsed.GetValue(TrainRun.Skein)!, launch, [.. common, .. method.Arguments], cancellationToken);
    }
}

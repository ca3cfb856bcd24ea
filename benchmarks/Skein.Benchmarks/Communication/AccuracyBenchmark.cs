using System.CommandLine;
using System.Globalization;
using System.Text.Json;

namespace Skein.Benchmarks.Communication;

/// <summary>Test accuracy with and without compression after equally many steps, over several seeds.</summary>
internal static class AccuracyBenchmark
{
    private static readonly Option<int> Seeds = new("--seeds") { DefaultValueFactory = static _ => 5 };
    private static readonly Option<int> Workers = new("--workers") { DefaultValueFactory = static _ => 4 };
    private static readonly Option<int> Epochs = new("--epochs") { DefaultValueFactory = static _ => 3 };
    private static readonly Option<string> Model = new("--model") { DefaultValueFactory = static _ => "cnn" };
    private static readonly Option<string[]> Methods = new("--methods") { DefaultValueFactory = static _ => [.. Method.All.Select(static method => method.Name)], AllowMultipleArgumentsPerToken = true };

    public static Command Command()
    {
        var command = new Command("accuracy", "Test accuracy of each method on fashion-mnist") { Seeds, Workers, Epochs, Model, Methods, TrainRun.Skein };
        command.SetAction(Run);
        return command;
    }

    private static async Task Run(ParseResult parsed, CancellationToken cancellationToken)
    {
        Method[] methods = Method.Named(parsed.GetValue(Methods)!);
        var runs = methods.ToDictionary(static method => method.Name, static _ => new List<TrainRun>());
        for (int seed = 0; seed < parsed.GetValue(Seeds); seed++)
        {
            foreach (Method method in methods)
            {
                string[] common = ["fashion-mnist", "--model", parsed.GetValue(Model)!, "--workers", $"{parsed.GetValue(Workers)}", "--epochs", $"{parsed.GetValue(Epochs)}", "--seed", $"{seed}"];
                TrainRun run = await TrainRun.RunAsync(parsed.GetValue(TrainRun.Skein)!, [.. common, .. method.Arguments], cancellationToken);
                runs[method.Name].Add(run);
                Console.Error.WriteLine(string.Create(CultureInfo.InvariantCulture, $"seed {seed}, {method.Name}: accuracy {run.TestAccuracy:f4}, {FewerBytes(method, run, runs[methods[0].Name][^1]):f1} times fewer bytes, {run.WallSeconds:f1} s"));
            }
        }

        Print(methods, runs);
    }

    private static void Print(Method[] methods, Dictionary<string, List<TrainRun>> runs)
    {
        List<TrainRun> reference = runs[methods[0].Name];
        Console.WriteLine($"| method | test accuracy, % | points above {methods[0].Name} | times fewer bytes |");
        Console.WriteLine("| --- | --- | --- | --- |");
        foreach (Method method in methods)
        {
            List<TrainRun> alike = runs[method.Name];
            (double mean, double deviation) = Statistics.MeanAndDeviation([.. alike.Select(static run => 100 * run.TestAccuracy)]);
            (double gain, double gainDeviation) = Statistics.MeanAndDeviation([.. alike.Zip(reference, static (run, other) => 100 * (run.TestAccuracy - other.TestAccuracy))]);
            double fewer = alike.Zip(reference, (run, other) => FewerBytes(method, run, other)).Average();
            Console.WriteLine(string.Create(
                CultureInfo.InvariantCulture,
                $"| {method.Name} | {mean:f2} ± {deviation:f2} | {gain:+0.00;-0.00;0.00} ± {gainDeviation:f2} | {fewer:f1} |"));
        }
    }

    /// <summary>Shared memory counts a gathered payload once, so a run's own figure comes first, which is for each time that the workers meet.</summary>
    private static double FewerBytes(Method method, TrainRun run, TrainRun reference)
    {
        JsonElement ratio = run.Summary.GetProperty("compression_ratio");
        return ratio.ValueKind == JsonValueKind.Number ? ratio.GetDouble() * method.LocalSteps : reference.BytesSentPerWorker / run.BytesSentPerWorker;
    }
}

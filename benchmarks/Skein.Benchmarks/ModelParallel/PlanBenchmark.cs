using System.CommandLine;
using System.Globalization;
using System.Text.Json;

namespace Skein.Benchmarks.ModelParallel;

/// <summary>What <c>skein plan</c> predicts beside what <c>skein train</c> takes, right after it.</summary>
internal static class PlanBenchmark
{
    private const int Characters = 120_000;

    private static readonly Option<int> Rounds = new("--rounds") { DefaultValueFactory = static _ => 3, Description = "Predictions and runs in turn, of which medians count" };
    private static readonly Option<string[]> Only = new("--only") { DefaultValueFactory = static _ => [], AllowMultipleArgumentsPerToken = true, Description = "Names of configurations [default: all]" };

    private static readonly Configuration[] All =
    [
        new("mlp ddp", ["fashion-mnist", "--model", "mlp", "--batch-size", "256"], 2, "dp=2,pp=1,tp=1", Steps: 800),
        new("cnn zero 1", ["fashion-mnist", "--model", "cnn", "--batch-size", "64"], 2, "dp=2,pp=1,tp=1", Zero: 1, Steps: 800),
        new("tiny ddp", ["language-model", "--model", "gpt-tiny", "--batch-size", "32"], 2, "dp=2,pp=1,tp=1", Steps: 120),
        new("tiny tensor", ["language-model", "--model", "gpt-tiny", "--batch-size", "16", "--context", "128"], 2, "dp=1,pp=1,tp=2", Steps: 120),
        new("tiny dp x pp", ["language-model", "--model", "gpt-tiny", "--batch-size", "48"], 4, "dp=2,pp=2,tp=1", Schedule: "1f1b", MicroBatches: 4, Steps: 120),
        new("small 1f1b", ["language-model", "--model", "gpt-small", "--batch-size", "16", "--context", "128"], 2, "dp=1,pp=2,tp=1", Schedule: "1f1b", MicroBatches: 8),
        new("small zero 3", ["language-model", "--model", "gpt-small", "--batch-size", "12"], 2, "dp=2,pp=1,tp=1", Zero: 3),
        new("gpt2 zero 3", ["language-model", "--model", "gpt2", "--batch-size", "4", "--context", "64"], 2, "dp=2,pp=1,tp=1", Zero: 3),
        // Chosen when the estimator was done, and not looked at before.
        new("fresh cnn ddp", ["fashion-mnist", "--model", "cnn", "--batch-size", "128"], 2, "dp=2,pp=1,tp=1", Steps: 800),
        new("fresh tiny zero 2", ["language-model", "--model", "gpt-tiny", "--batch-size", "40"], 2, "dp=2,pp=1,tp=1", Zero: 2, Steps: 120),
        new("fresh tiny interleaved", ["language-model", "--model", "gpt-tiny", "--batch-size", "24", "--context", "96"], 2, "dp=1,pp=2,tp=1", Schedule: "interleaved:2", MicroBatches: 4, Steps: 120),
        new("fresh tiny dp x tp", ["language-model", "--model", "gpt-tiny", "--batch-size", "24"], 4, "dp=2,pp=1,tp=2", Steps: 120),
        new("fresh small tensor", ["language-model", "--model", "gpt-small", "--batch-size", "8", "--context", "64"], 2, "dp=1,pp=1,tp=2"),
        // Chosen after the number of steps had been raised for those above, and not looked at before.
        new("later mlp zero 1", ["fashion-mnist", "--model", "mlp", "--batch-size", "512"], 2, "dp=2,pp=1,tp=1", Zero: 1, Steps: 800),
        new("later tiny ddp", ["language-model", "--model", "gpt-tiny", "--batch-size", "64"], 2, "dp=2,pp=1,tp=1", Steps: 120),
        new("later tiny tensor", ["language-model", "--model", "gpt-tiny", "--batch-size", "12", "--context", "96"], 2, "dp=1,pp=1,tp=2", Steps: 120),
        new("later tiny pp x tp", ["language-model", "--model", "gpt-tiny", "--batch-size", "32"], 4, "dp=1,pp=2,tp=2", Schedule: "1f1b", MicroBatches: 4, Steps: 120),
        new("later tiny dp x tp zero 3", ["language-model", "--model", "gpt-tiny", "--batch-size", "32"], 4, "dp=2,pp=1,tp=2", Zero: 3, Steps: 120),
        new("later tiny dp x pp zero 3", ["language-model", "--model", "gpt-tiny", "--batch-size", "32"], 4, "dp=2,pp=2,tp=1", Zero: 3, Schedule: "1f1b", MicroBatches: 4, Steps: 120),
        new("later small zero 2", ["language-model", "--model", "gpt-small", "--batch-size", "8", "--context", "96"], 2, "dp=2,pp=1,tp=1", Zero: 2),
    ];

    public static Command Command()
    {
        var command = new Command("plan", "Predicted and measured step times and memory") { Rounds, Only, SampleText.Source, TrainRun.Skein };
        command.SetAction(Run);
        return command;
    }

    private static async Task Run(ParseResult parsed, CancellationToken cancellationToken)
    {
        string[] only = parsed.GetValue(Only)!;
        using SampleText text = await SampleText.WriteAsync(parsed, Characters, cancellationToken);
        Console.WriteLine("| model, batch | plan | step predicted, s | measured | ratio | memory predicted, MiB | measured | ratio |");
        Console.WriteLine("| --- | --- | --- | --- | --- | --- | --- | --- |");
        foreach (Configuration configuration in All.Where(configuration => only.Length == 0 || only.Contains(configuration.Name)))
        {
            string[] training = configuration.Training[0] == "language-model" ? [.. configuration.Training, "--text", text.Path] : configuration.Training;
            await CompareAsync(parsed.GetValue(TrainRun.Skein)!, configuration, training, parsed.GetValue(Rounds), cancellationToken);
        }
    }

    private static async Task CompareAsync(string skein, Configuration configuration, string[] training, int rounds, CancellationToken cancellationToken)
    {
        var found = new List<(double Predicted, double Measured, double PredictedMemory, double Memory)>();
        for (int round = 0; round < rounds; round++)
        {
            JsonElement plan = await PredictAsync(skein, configuration, training, cancellationToken);
            string[] train = [.. plan.GetProperty("command").GetString()!.Split(' ').Skip(2), "--epochs", $"{configuration.Steps}", "--max-steps", $"{configuration.Steps}"];
            TrainRun run = await TrainRun.RunAsync(skein, train, cancellationToken);
            // The first steps compile code and touch memory for the first time.
            double[] durations = [.. run.Losses.Skip(1).Zip(run.Losses, static (end, start) => end.X - start.X)];
            found.Add((
                plan.GetProperty("step_seconds").GetDouble(), Statistics.Median(durations[(durations.Length / 3)..]),
                plan.GetProperty("memory_bytes").GetDouble() / (1 << 20), run.Summary.GetProperty("peak_rss_bytes").GetDouble() / (1 << 20)));
        }

        double predicted = Median(static round => round.Predicted), measured = Median(static round => round.Measured);
        double predictedMemory = Median(static round => round.PredictedMemory), memory = Median(static round => round.Memory);
        string ratios = string.Join(", ", found.Select(static round => (round.Predicted / round.Measured).ToString("f2", CultureInfo.InvariantCulture)).Order());
        Console.WriteLine(string.Create(
            CultureInfo.InvariantCulture,
            $"| {Describe(configuration.Training)} | {configuration.Describe()} | {predicted:f4} | {measured:f4} | {predicted / measured:f2} ({ratios}) | {predictedMemory:f0} | {memory:f0} | {predictedMemory / memory:f2} |"));

        double Median(Func<(double Predicted, double Measured, double PredictedMemory, double Memory), double> field) => Statistics.Median(found.Select(field));
    }

    private static async Task<JsonElement> PredictAsync(string skein, Configuration configuration, string[] training, CancellationToken cancellationToken)
    {
        string output = await ChildProcess.OutputAsync(skein, ["plan", .. training, "--workers", $"{configuration.Workers}", "--json"], cancellationToken);
        return JsonDocument.Parse(output.TrimEnd().Split('\n')[^1]).RootElement.GetProperty("plans").EnumerateArray().First(configuration.Is);
    }

    private static string Describe(string[] training) => string.Join(' ', training.Where(static (argument, index) => index > 0 && argument is not "--model")).Replace("--", "", StringComparison.Ordinal);

    private sealed record Configuration(string Name, string[] Training, int Workers, string Mesh, int? Zero = null, string? Schedule = null, int? MicroBatches = null, int Steps = 12)
    {
        public bool Is(JsonElement plan) =>
            plan.GetProperty("mesh").GetString() == Mesh && Number(plan, "zero") == Zero && plan.GetProperty("schedule").GetString() == Schedule && Number(plan, "micro_batches") == MicroBatches;

        public string Describe() => $"{Mesh}{(Zero is null ? "" : $" zero {Zero}")}{(Schedule is null ? "" : $" {Schedule}, {MicroBatches} micro-batches")}";

        private static int? Number(JsonElement plan, string name) => plan.GetProperty(name) is { ValueKind: JsonValueKind.Number } number ? number.GetInt32() : null;
    }
}

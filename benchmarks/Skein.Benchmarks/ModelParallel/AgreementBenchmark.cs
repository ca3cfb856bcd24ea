using System.CommandLine;
using System.Globalization;

namespace Skein.Benchmarks.ModelParallel;

/// <summary>How far the losses of models that ranks divide are from those of a single process.</summary>
internal static class AgreementBenchmark
{
    private const int Characters = 120_000;

    private static readonly Option<string> Model = new("--model") { DefaultValueFactory = static _ => "gpt-tiny" };
    private static readonly Option<int> Steps = new("--steps") { DefaultValueFactory = static _ => 50 };

    private static readonly (int Workers, string Options)[] Ways =
    [
        (2, "--strategy sharded --zero 1"),
        (3, "--strategy sharded --zero 2"),
        (4, "--strategy sharded --zero 3"),
        (2, "--strategy pipeline --schedule gpipe --micro-batches 5"),
        (3, "--strategy pipeline --schedule 1f1b --micro-batches 7"),
        (2, "--strategy pipeline --schedule interleaved:2 --micro-batches 4"),
        (2, "--strategy pipeline --schedule zero-bubble --micro-batches 8"),
        (2, "--strategy tensor"),
        (4, "--strategy tensor --sequence-parallel"),
        (4, "--strategy mesh --mesh dp=2,pp=2"),
        (4, "--strategy mesh --mesh dp=2,tp=2"),
        (4, "--strategy mesh --mesh pp=2,tp=2"),
        (4, "--strategy mesh --mesh dp=2,tp=2 --zero 3"),
        (4, "--strategy mesh --mesh dp=2,pp=2 --zero 2 --activation-checkpointing"),
        (4, "--strategy mesh --mesh dp=2,pp=2 --zero 3 --schedule zero-bubble"),
    ];

    public static Command Command()
    {
        var command = new Command("agreement", "Losses of divided models against those of a single process") { Model, Steps, SampleText.Source, TrainRun.Skein };
        command.SetAction(Run);
        return command;
    }

    private static async Task Run(ParseResult parsed, CancellationToken cancellationToken)
    {
        using SampleText text = await SampleText.WriteAsync(parsed, Characters, cancellationToken);
        int steps = parsed.GetValue(Steps);
        TrainRun single = await TrainAsync(1, "--strategy single");
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{steps} steps from a loss of {single.Losses[0].Y:f3} to {single.Losses[^1].Y:f3}\n"));
        Console.WriteLine("| workers | options | largest relative difference of a step's loss |");
        Console.WriteLine("| --- | --- | --- |");
        foreach ((int workers, string options) in Ways)
        {
            TrainRun run = await TrainAsync(workers, options);
            double difference = single.Losses.Zip(run.Losses, static (expected, actual) => Math.Abs(actual.Y - expected.Y) / expected.Y).Max();
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"| {workers} | `{options}` | {difference:0.0e0} |"));
        }

        Task<TrainRun> TrainAsync(int workers, string options) => TrainRun.RunAsync(
            parsed.GetValue(TrainRun.Skein)!,
            [
                "language-model", "--model", parsed.GetValue(Model)!, "--context", "64", "--batch-size", "24", "--text", text.Path,
                "--workers", $"{workers}", .. options.Split(' '), "--epochs", $"{steps}", "--max-steps", $"{steps}",
            ],
            cancellationToken);
    }
}

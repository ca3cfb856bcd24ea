using System.CommandLine;
using System.Globalization;

namespace Skein.Benchmarks.ModelParallel;

/// <summary>The bubble of each schedule, measured and in theory.</summary>
internal static class BubbleBenchmark
{
    private const int Characters = 120_000;
    private const int WarmUp = 2;

    private static readonly Option<string> Model = new("--model") { DefaultValueFactory = static _ => "gpt-small" };
    private static readonly Option<int> Stages = new("--stages") { DefaultValueFactory = static _ => 2 };
    private static readonly Option<int> MicroBatches = new("--micro-batches") { DefaultValueFactory = static _ => 8 };
    private static readonly Option<int> Steps = new("--steps") { DefaultValueFactory = static _ => 12 };

    public static Command Command()
    {
        var command = new Command("bubble", "The bubble of each pipeline schedule") { Model, Stages, MicroBatches, Steps, SampleText.Source, TrainRun.Skein };
        command.SetAction(Run);
        return command;
    }

    private static async Task Run(ParseResult parsed, CancellationToken cancellationToken)
    {
        using SampleText text = await SampleText.WriteAsync(parsed, Characters, cancellationToken);
        int microBatches = parsed.GetValue(MicroBatches), steps = parsed.GetValue(Steps);
        Console.WriteLine("| schedule | bubble measured | closed form | simulated from the measured passes | step, s |");
        Console.WriteLine("| --- | --- | --- | --- | --- |");
        foreach (string schedule in (string[])["gpipe", "1f1b", "interleaved:2", "zero-bubble"])
        {
            TrainRun run = await TrainRun.RunAsync(
                parsed.GetValue(TrainRun.Skein)!,
                [
                    "language-model", "--model", parsed.GetValue(Model)!, "--context", "128", "--batch-size", $"{2 * microBatches}", "--text", text.Path, "--workers", $"{parsed.GetValue(Stages)}",
                    "--strategy", "pipeline", "--schedule", schedule, "--micro-batches", $"{microBatches}", "--epochs", $"{steps}", "--max-steps", $"{steps}",
                ],
                cancellationToken);
            Console.WriteLine(string.Create(
                CultureInfo.InvariantCulture,
                $"| {schedule} | {Fraction("bubble_fraction"):p1} | {Fraction("theoretical_bubble_fraction"):p1} | {Fraction("simulated_bubble_fraction"):p1} | {run.StepSeconds(WarmUp):f3} |"));

            double Fraction(string name) => run.Summary.GetProperty(name).GetDouble();
        }
    }
}

using System.CommandLine;
using System.Globalization;

namespace Skein.Benchmarks.ModelParallel;

/// <summary>Memory and step time of the stages of ZeRO beside data parallel, on a model of GPT-2's shape with Adam.</summary>
internal static class ZeroBenchmark
{
    private const int Characters = 60_000;
    private const double Mebi = 1 << 20;

    // The first steps touch memory for the first time.
    private const int WarmUp = 2;

    private static readonly Option<int> Workers = new("--workers") { DefaultValueFactory = static _ => 4 };
    private static readonly Option<int> Steps = new("--steps") { DefaultValueFactory = static _ => 8 };
    private static readonly Option<int> Rounds = new("--rounds") { DefaultValueFactory = static _ => 2, Description = "How often all of them run, in turn" };

    private static readonly (string Name, string[] Options)[] Strategies =
    [
        ("ddp", ["--strategy", "ddp"]),
        .. Enumerable.Range(1, 3).Select(static stage => ($"--zero {stage}", (string[])["--strategy", "sharded", "--zero", $"{stage}"])),
    ];

    public static Command Command()
    {
        var command = new Command("zero", "Peak memory and step time of the stages of ZeRO") { Workers, Steps, Rounds, SampleText.Source, TrainRun.Skein };
        command.SetAction(Run);
        return command;
    }

    private static async Task Run(ParseResult parsed, CancellationToken cancellationToken)
    {
        using SampleText text = await SampleText.WriteAsync(parsed, Characters, cancellationToken);
        int workers = parsed.GetValue(Workers), steps = parsed.GetValue(Steps);
        var runs = Strategies.ToDictionary(static strategy => strategy.Name, static _ => new List<TrainRun>());
        for (int round = 0; round < parsed.GetValue(Rounds); round++)
        {
            foreach ((string name, string[] options) in Strategies)
            {
                string[] training = ["language-model", "--model", "gpt2", "--context", "64", "--batch-size", "4", "--text", text.Path, "--workers", $"{workers}", "--epochs", $"{steps}", "--max-steps", $"{steps}"];
                runs[name].Add(await TrainRun.RunAsync(parsed.GetValue(TrainRun.Skein)!, [.. training, .. options], cancellationToken));
            }
        }

        double parameters = runs["ddp"][0].Summary.GetProperty("parameter_count").GetDouble();
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{parameters / 1e6:f1} million parameters, Adam, {workers} workers\n"));
        Console.WriteLine("| strategy | parameters, gradients and optimizer by the formula, MiB | peak memory, MiB | of ddp's | step, s | times ddp's | same parameters as ddp |");
        Console.WriteLine("| --- | --- | --- | --- | --- | --- | --- |");
        for (int stage = 0; stage < Strategies.Length; stage++)
        {
            List<TrainRun> alike = runs[Strategies[stage].Name], reference = runs["ddp"];
            double formula = 4 * parameters * (Share(stage >= 3) + Share(stage >= 2) + (2 * Share(stage >= 1)));
            double memory = alike.Max(static run => run.PeakBytes), slowdown = Statistics.Median(alike.Zip(reference, static (run, other) => run.StepSeconds(WarmUp) / other.StepSeconds(WarmUp)));
            bool same = alike.TrueForAll(run => run.Checksum == reference[0].Checksum);
            Console.WriteLine(string.Create(
                CultureInfo.InvariantCulture,
                $"| {Strategies[stage].Name} | {formula / Mebi:f0} | {memory / Mebi:f0} | {memory / reference.Max(static run => run.PeakBytes):p1} | {Statistics.Median(alike.Select(static run => run.StepSeconds(WarmUp))):f2} | {slowdown:f2} | {(same ? "yes, bitwise" : "no")} |"));
        }

        double Share(bool divided) => divided ? 1.0 / workers : 1;
    }
}

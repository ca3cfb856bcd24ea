using System.CommandLine;
using System.Text.Json;
using Skein.Hosting;

namespace Skein.Benchmarks;

/// <summary>
/// Data-parallel training throughput: synthetic 28x28 images, SGD, one compute thread for each process, real
/// processes. Rounds alternate the configurations so that noise falls on all alike; the ratio is taken within each.
///   single: one process, the other cores idle
///   pair:   N processes that do not communicate: what sharing memory and cores alone costs
///   ddp:    N processes with DataParallel
/// As many steps as are timed come first, untimed: the runtime compiles hot code again in the background meanwhile.
/// Efficiency is ddp's steps per second (every worker steps together) over single's.
/// </summary>
internal static class DataParallelBenchmark
{
    private static readonly Option<string[]> Models = new("--models") { DefaultValueFactory = static _ => ["mlp", "cnn"], AllowMultipleArgumentsPerToken = true };
    private static readonly Option<int> Processes = new("--procs") { DefaultValueFactory = static _ => 2 };
    private static readonly Option<int> Rounds = new("--rounds") { DefaultValueFactory = static _ => 5 };
    private static readonly Option<int> Batch = new("--batch") { DefaultValueFactory = static _ => 64, Description = "Samples for each worker" };
    private static readonly Option<int> Steps = new("--steps") { Description = "0: 600 for mlp, 200 for cnn" };
    private static readonly Option<string> Overlap = new("--overlap") { DefaultValueFactory = static _ => "auto", Description = "auto, on or off" };

    public static Command Command()
    {
        var command = new Command("ddp", "Data-parallel training throughput, single against N processes") { Models, Processes, Rounds, Batch, Steps, Overlap };
        command.SetAction(Run);
        return command;
    }

    private static async Task Run(ParseResult parsed, CancellationToken cancellationToken)
    {
        Console.WriteLine("model,params,config,procs,round,steps_per_s,samples_per_s,peak_rss_MiB_per_proc,communication_share,ratio_to_single");
        foreach (string model in parsed.GetValue(Models)!)
        {
            int steps = parsed.GetValue(Steps) is > 0 and var given ? given : model == "mlp" ? 600 : 200;
            var seen = new Dictionary<string, List<(double Rate, double Ratio, double Peak)>>();
            for (int round = 0; round < parsed.GetValue(Rounds); round++)
            {
                double single = 0;
                foreach ((string kind, int processes) in new[] { ("single", 1), ("pair", parsed.GetValue(Processes)), ("ddp", parsed.GetValue(Processes)) })
                {
                    var work = new DataParallelWork(model, kind, parsed.GetValue(Batch), steps, steps, parsed.GetValue(Overlap)!);
                    Measurement result = await Measure(work, processes, cancellationToken);
                    if (single == 0) single = result.StepsPerSecond;
                    double ratio = result.StepsPerSecond / single;
                    if (!seen.TryGetValue(kind, out var list)) seen[kind] = list = [];
                    list.Add((result.StepsPerSecond, ratio, result.PeakMiB));
                    Console.WriteLine(
                        $"{model},{result.Parameters},{kind},{processes},{round},{result.StepsPerSecond:f1},{result.StepsPerSecond * processes * work.Batch:f0}," +
                        $"{result.PeakMiB:f0},{result.CommunicationShare:f3},{ratio:f3}");
                }
            }

            foreach ((string kind, var list) in seen)
            {
                Console.WriteLine(
                    $"# {model} {kind}: median {Statistics.Median(list.Select(static entry => entry.Rate)):f1} steps/s, " +
                    $"ratio median {Statistics.Median(list.Select(static entry => entry.Ratio)):f3} " +
                    $"({list.Min(static entry => entry.Ratio):f3}..{list.Max(static entry => entry.Ratio):f3}), peak rss {list.Max(static entry => entry.Peak):f0} MiB");
            }
        }
    }

    private static async Task<Measurement> Measure(DataParallelWork work, int processes, CancellationToken cancellationToken)
    {
        string path = Path.GetTempFileName();
        try
        {
            LaunchOutcome outcome = await Launcher.RunAsync(
                new LaunchOptions
                {
                    Program = Environment.ProcessPath!,
                    Arguments = [typeof(DataParallelBenchmark).Assembly.Location, "ddp-worker", path, JsonSerializer.Serialize(work)],
                    ProcessesPerNode = processes,
                    Output = LaunchOutput.RankZero,
                    Environment = new Dictionary<string, string> { ["OMP_NUM_THREADS"] = "1" },
                },
                cancellationToken);
            if (outcome.ExitCode != 0) throw new InvalidOperationException($"{work} failed: {outcome.Failure}");
            return JsonSerializer.Deserialize<Measurement>(await File.ReadAllTextAsync(path, cancellationToken))!;
        }
        finally
        {
            File.Delete(path);
        }
    }
}

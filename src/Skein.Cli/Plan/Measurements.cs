using System.Globalization;
using System.Text.Json;
using Skein.Cli.Bench;
using Skein.Hosting;
using Skein.Training.Planning;

namespace Skein.Cli.Plan;

/// <summary>What a plan is computed from, measured on this machine in jobs of this same command.</summary>
internal static class Measurements
{
    private const int SmallKib = 4;

    // What is larger than caches takes longer for each byte.
    private const int LeastLargeKib = 4 << 10;
    private const int MostLargeKib = 64 << 10;

    private const string Iterations = "30";

    private static readonly (CollectiveKind Kind, string Name, string Buffers)[] Collectives =
    [
        // As buckets of gradients, and as what strategies pass through staging areas.
        (CollectiveKind.AllReduce, "allreduce", BenchOptions.Shared),
        (CollectiveKind.AllGather, "allgather", BenchOptions.Ordinary),
        (CollectiveKind.ReduceScatter, "reducescatter", BenchOptions.Ordinary),
        (CollectiveKind.SendReceive, "sendrecv", BenchOptions.Ordinary),
    ];

    /// <summary>Measures the model, in as many processes at the same time as workers have a core.</summary>
    public static async Task<ModelProfile> ProfileAsync(PlanOptions options)
    {
        string json = await RunAsync(ThisCommand.Read().Arguments, Math.Min(options.Workers, Environment.ProcessorCount), PlanWorker.ProfileFile);
        return JsonSerializer.Deserialize<ModelProfile>(json)!;
    }

    /// <summary>Measures the workers' communication, or takes the link that was given.</summary>
    /// <param name="options">What was asked for.</param>
    /// <param name="modelBytes">Of all parameters: about as much goes through in a pass.</param>
    public static async Task<CollectiveCosts> CollectivesAsync(PlanOptions options, long modelBytes)
    {
        if (options.Link is { } link) return CollectiveCosts.OfLink(link.BytesPerSecond, link.Latency.TotalSeconds);
        var measured = new Dictionary<CollectiveKind, ((double, double), (double, double))>();
        bool sharedMemory = true;
        if (options.Workers > 1)
        {
            foreach ((CollectiveKind kind, string name, string buffers) in Collectives)
            {
                string[] arguments = ["bench", name, "--sizes", $"{SmallKib}KiB,{Math.Clamp(modelBytes >> 10, LeastLargeKib, MostLargeKib)}KiB", "--iterations", Iterations, "--buffers", buffers];
                string json = await RunAsync([.. ThisCommand.Read().Arguments[..ThisCommand.HostArguments], .. arguments], options.Workers, BenchWorker.ReportFile);
                BenchReport report = JsonSerializer.Deserialize<BenchReport>(json, BenchReport.Json)!;
                // What each rank contributes is a part of what an all-gather collects.
                double factor = kind == CollectiveKind.AllGather ? options.Workers : 1;
                measured[kind] = (Row(report.Results[0]), Row(report.Results[1]));
                sharedMemory = report.Transport == "shm";

                (double, double) Row(BenchResult result) => (factor * result.Bytes, result.MedianSeconds);
            }
        }

        return CollectiveCosts.Measured(options.Workers, sharedMemory, measured);
    }

    private static async Task<string> RunAsync(IReadOnlyList<string> arguments, int processes, string file)
    {
        string directory = Directory.CreateTempSubdirectory("skein-plan-").FullName;
        try
        {
            LaunchOutcome outcome = await Launcher.RunAsync(new LaunchOptions
            {
                Program = ThisCommand.Read().Program,
                Arguments = arguments,
                ProcessesPerNode = processes,
                RunDirectory = directory,
                Output = LaunchOutput.None,
            });
            if (outcome.ExitCode == CommandLine.Interrupted) throw new OperationCanceledException();
            if (outcome.ExitCode != 0)
            {
                string? said = outcome.FailedRank is { } failed ? outcome.LastLines[failed].LastOrDefault(static line => line.StartsWith(CommandLine.Prefix, StringComparison.Ordinal)) : null;
                throw new InvalidOperationException(said?[CommandLine.Prefix.Length..] ?? string.Create(CultureInfo.InvariantCulture, $"measuring failed: {outcome.Failure}"));
            }

            return await File.ReadAllTextAsync(Path.Combine(directory, file));
        }
        finally
        {
            Directory.Delete(directory, recursive: true);
        }
    }
}

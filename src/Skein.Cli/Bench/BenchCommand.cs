using System.CommandLine;
using System.Text.Json;
using Skein.Collectives;
using Skein.Collectives.Rendezvous;
using Skein.Hosting;

namespace Skein.Cli.Bench;

/// <summary><c>skein bench</c>: starts N local processes of this same command, which measure.</summary>
internal static class BenchCommand
{
    private const string CalibrationSizes = "256B,1KiB,4KiB,16KiB,64KiB,256KiB,1MiB,4MiB,16MiB";

    public static Command Create() => BenchOptions.Syntax(RunAsync);

    private static Task<int> RunAsync(BenchOptions options)
    {
        if (LauncherEnvironment.HasRank())
        {
            if (options.ProcessesWritten) CommandLine.CheckWorld("-n", options.Processes, LauncherEnvironment.Read());
            return BenchWorker.RunAsync(options);
        }

        return options.Calibrate ? CalibrateAsync(options) : LaunchAsync(options, ThisCommand.Read().Arguments, null);
    }

    private static async Task<int> LaunchAsync(BenchOptions options, IReadOnlyList<string> arguments, string? directory)
    {
        LaunchOutcome outcome = await Launcher.RunAsync(new LaunchOptions
        {
            Program = ThisCommand.Read().Program,
            Arguments = arguments,
            ProcessesPerNode = options.Processes,
            RunDirectory = directory,
            Output = LaunchOutput.RankZero,
        });
        if (outcome.ExitCode is CommandLine.Failed or CommandLine.BadUsage or CommandLine.Interrupted || outcome.Failure is null) return outcome.ExitCode;
        CommandLine.Report(outcome.Failure);
        return CommandLine.Failed;
    }

    /// <summary>Measures with one algorithm after the other, each in a job of its own, and keeps the fastest per size.</summary>
    private static async Task<int> CalibrateAsync(BenchOptions options)
    {
        string directory = Directory.CreateTempSubdirectory("skein-calibrate-").FullName;
        try
        {
            var reports = new List<BenchReport>();
            foreach (AllReduceAlgorithm algorithm in Candidates(options))
            {
                string[] command = ThisCommand.Read().Arguments;
                string[] start = command.Length > 0 && command[0].EndsWith(".dll", StringComparison.Ordinal) ? [command[0]] : [];
                string[] arguments =
                [
                    .. start, "bench", "allreduce", "--sizes", CalibrationSizes, "--dtype", options.TypeName, "--algorithm", OptionNames.Of(algorithm),
                    .. options.Transport is { } transport ? new[] { "--transport", OptionNames.Of(transport) } : [],
                ];
                int exitCode = await LaunchAsync(options, arguments, directory);
                if (exitCode != 0) return exitCode;
                byte[] file = await File.ReadAllBytesAsync(Path.Combine(directory, BenchWorker.ReportFile));
                reports.Add(JsonSerializer.Deserialize<BenchReport>(file, BenchReport.Json)!);
            }

            var fastest = new List<(long, AllReduceAlgorithm)>();
            for (int size = 0; size < reports[0].Results.Count; size++)
            {
                BenchReport best = reports.MinBy(report => report.Results[size].MedianSeconds)!;
                fastest.Add((best.Results[size].Bytes, OptionNames.ParseAlgorithm(best.Algorithm!)));
            }

            AlgorithmTable.Save(reports[0].Transport, options.Processes, fastest);
            Console.WriteLine($"kept in {AlgorithmTable.Path}: {string.Join(", ", fastest.Select(row => $"{row.Item1:N0} B {OptionNames.Of(row.Item2)}"))}");
            return 0;
        }
        finally
        {
            Directory.Delete(directory, recursive: true);
        }
    }

    private static IEnumerable<AllReduceAlgorithm> Candidates(BenchOptions options)
    {
        yield return AllReduceAlgorithm.Ring;
        yield return AllReduceAlgorithm.HalvingDoubling;
        yield return AllReduceAlgorithm.Tree;
        if (options.Transport is null or TransportKind.Auto or TransportKind.SharedMemory) yield return AllReduceAlgorithm.Direct;
    }
}

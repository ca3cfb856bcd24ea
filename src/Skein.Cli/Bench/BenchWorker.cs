using System.Diagnostics;
using System.Text.Json;
using Skein.Collectives;
using Skein.Collectives.Rendezvous;

namespace Skein.Cli.Bench;

/// <summary>One rank of <c>skein bench</c>.</summary>
/// <remarks>
/// A timed call comes after a barrier, and its time is that of the slowest rank; the median and the 99th percentile are
/// taken over these. Results are checked on every rank outside the timed part, on values that are exact in all types.
/// </remarks>
internal static class BenchWorker
{
    public const string ReportFile = "bench.json";

    private const int LongestRun = 2000;
    private const double SecondsPerSize = 1.5;

    public static async Task<int> RunAsync(BenchOptions options)
    {
        ProcessGroupOptions place = LauncherEnvironment.Read();
        await using ProcessGroup group = await ProcessGroup.InitializeAsync(
            place with { Transport = options.Transport ?? place.Transport, Algorithm = options.Algorithm ?? place.Algorithm });
        BenchResult[] results = options.Type switch
        {
            ElementType.Float32 => Measure(group, options, value => (float)value, value => value),
            ElementType.Float64 => Measure(group, options, value => (double)value, value => value),
            ElementType.Float16 => Measure(group, options, value => (Half)value, value => (double)value),
            ElementType.BFloat16 => Measure(group, options, value => (BFloat16)value, value => (float)value),
            ElementType.Int32 => Measure(group, options, value => value, value => value),
            ElementType.Int64 => Measure(group, options, value => (long)value, value => value),
            _ => Measure(group, options, value => (byte)value, value => value),
        };
        if (group.Rank != 0) return 0;
        var report = new BenchReport(
            options.Collective,
            group.WorldSize,
            options.TypeName,
            group.TransportName,
            options.Collective == "allreduce" ? group.AlgorithmName : null,
            options.SharedBuffers ? BenchOptions.Shared : BenchOptions.Ordinary,
            results);
        string json = JsonSerializer.Serialize(report, BenchReport.Json);
        if (Environment.GetEnvironmentVariable("SKEIN_RUN_DIR") is { Length: > 0 } directory)
        {
            await File.WriteAllTextAsync(Path.Combine(directory, ReportFile), json);
        }

        Console.WriteLine(options.Json ? json : report.ForPeople());
        if (results.All(result => result.Correct)) return 0;
        CommandLine.Report("a result was wrong; please report this with the line above");
        return CommandLine.Failed;
    }

    private static BenchResult[] Measure<T>(ProcessGroup group, BenchOptions options, Func<int, T> from, Func<T, double> to) where T : unmanaged
    {
        var results = new List<BenchResult>();
        foreach (long bytes in options.Sizes)
        {
            using var trial = new CollectiveTrial<T>(group, options, checked((int)(bytes / options.Type.Size())), from, to);
            trial.Run();
            int iterations = options.Iterations ?? ChooseIterations(group, trial);
            // As much warming up as the compiler needs.
            Time(group, trial, Math.Min(iterations, 300));
            double[] seconds = Time(group, trial, iterations);
            bool correct = trial.IsCorrect();
            (double median, double p99) = (Quantile(seconds, 0.5), Quantile(seconds, 0.99));
            double algorithmBandwidth = median > 0 ? trial.MovedBytes(bytes) / median : 0;
            results.Add(new BenchResult(
                bytes, median, p99, algorithmBandwidth, algorithmBandwidth * trial.BusFactor, iterations, AllAgree(group, correct), trial.Algorithm));
        }

        return [.. results];
    }

    /// <summary>As many as fit into a second or so.</summary>
    private static int ChooseIterations<T>(ProcessGroup group, CollectiveTrial<T> trial) where T : unmanaged
    {
        Time(group, trial, 3);
        double once = Quantile(Time(group, trial, 5), 0.5);
        int iterations = (int)Math.Clamp(SecondsPerSize / Math.Max(once, 1e-7), 7, LongestRun);
        int[] agreed = [iterations];
        group.Broadcast<int>(agreed);
        return agreed[0];
    }

    /// <summary>The seconds of each call on the slowest rank.</summary>
    private static double[] Time<T>(ProcessGroup group, CollectiveTrial<T> trial, int iterations) where T : unmanaged
    {
        double[] seconds = new double[iterations];
        for (int i = 0; i < iterations; i++)
        {
            group.Barrier();
            long start = Stopwatch.GetTimestamp();
            trial.Run();
            seconds[i] = Stopwatch.GetElapsedTime(start).TotalSeconds;
        }

        group.AllReduce<double>(seconds, ReduceOperation.Max);
        return seconds;
    }

    private static double Quantile(double[] values, double quantile)
    {
        double[] sorted = [.. values.Order()];
        double position = quantile * (sorted.Length - 1);
        int below = (int)position;
        double above = sorted[Math.Min(below + 1, sorted.Length - 1)];
        return sorted[below] + ((position - below) * (above - sorted[below]));
    }

    private static bool AllAgree(ProcessGroup group, bool correct)
    {
        int[] all = [correct ? 1 : 0];
        group.AllReduce<int>(all, ReduceOperation.Min);
        return all[0] == 1;
    }
}

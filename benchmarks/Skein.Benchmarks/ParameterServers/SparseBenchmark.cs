using System.CommandLine;
using System.Diagnostics;
using System.Globalization;
using Skein.ParameterServer;

namespace Skein.Benchmarks.ParameterServers;

/// <summary>
/// Steps that touch few rows of a large table: rows pulled and their gradients pushed, against a dense push and pull of
/// a part of the same table. The dense step of the whole table is that of the part times how much larger it is; it is
/// not measured, since it would need several times the table's memory.
/// </summary>
internal static class SparseBenchmark
{
    private static readonly Option<long> Rows = new("--rows") { DefaultValueFactory = static _ => 10_000_000 };
    private static readonly Option<int> DenseRows = new("--dense-rows") { DefaultValueFactory = static _ => 1_000_000, Description = "Rows of the part that moves densely" };
    private static readonly Option<int> Dimension = new("--dimension") { DefaultValueFactory = static _ => 16 };
    private static readonly Option<int> Batch = new("--batch") { DefaultValueFactory = static _ => 4096, Description = "Ids of a step, before equal ones are put together" };
    private static readonly Option<double> Exponent = new("--exponent") { DefaultValueFactory = static _ => 1.05, Description = "Of the ids' power law; not 1" };
    private static readonly Option<int> Steps = new("--steps") { DefaultValueFactory = static _ => 500 };
    private static readonly Option<int> Rounds = new("--rounds") { DefaultValueFactory = static _ => 3 };

    public static Command Command()
    {
        var command = new Command("sparse", "Rows of a table pulled and pushed, against the dense table") { Rows, DenseRows, Dimension, Batch, Exponent, Steps, Rounds, TrainRun.Skein };
        command.SetAction(Run);
        return command;
    }

    private static async Task Run(ParseResult parsed, CancellationToken cancellationToken)
    {
        int dimension = parsed.GetValue(Dimension), steps = parsed.GetValue(Steps), denseRows = parsed.GetValue(DenseRows);
        long rows = parsed.GetValue(Rows);
        string skein = parsed.GetValue(TrainRun.Skein)!;
        var settings = new JobSettings { Servers = 1, Workers = 1, Consistency = "async" };
        var table = new TableSpec("rows", rows, dimension, 0.01f, 1);
        var random = new Random(1);
        long[][] batches = [.. Enumerable.Range(0, steps).Select(_ => Draw(random, parsed.GetValue(Batch), rows, parsed.GetValue(Exponent)))];
        double distinct = batches.Average(static ids => ids.Length);

        List<double> sparse = [], dense = [];
        for (int round = 0; round < parsed.GetValue(Rounds); round++)
        {
            sparse.Add(await SparseSecondsAsync(skein, settings, table, batches, cancellationToken));
            dense.Add(await DenseSecondsAsync(skein, settings, denseRows * dimension, cancellationToken));
            Console.Error.WriteLine($"round {round + 1}: sparse {sparse[^1] * 1e3:f2} ms, dense {dense[^1] * 1e3:f2} ms a step");
        }

        double whole = (double)rows / denseRows;
        (double sparseMedian, double denseMedian) = (Statistics.Median(sparse), Statistics.Median(dense));
        double[] ratios = [.. sparse.Zip(dense, static (own, other) => other / own)];
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"""
            {rows:N0} rows of {dimension}, {parsed.GetValue(Batch)} ids a step of which {distinct:f0} are distinct, SGD, pull and push:

            | | milliseconds a step | rows per second |
            | --- | --- | --- |
            | sparse | {sparseMedian * 1e3:f2} | {distinct / sparseMedian:N0} |
            | dense, {denseRows:N0} rows | {denseMedian * 1e3:f2} | {denseRows / denseMedian:N0} |
            | dense, all rows, extrapolated | {denseMedian * whole * 1e3:f0} | |

            A sparse step is {Statistics.Median(ratios):f1} times as fast as a dense one of {denseRows:N0} rows ({ratios.Min():f1} to {ratios.Max():f1}), by extrapolation {Statistics.Median(ratios) * whole:f0} times as fast as a dense one of all rows.
            """));
    }

    private static async Task<double> SparseSecondsAsync(string skein, JobSettings settings, TableSpec table, long[][] batches, CancellationToken cancellationToken)
    {
        await using ServerJob job = await ServerJob.StartAsync(skein, settings, cancellationToken);
        using var dense = new PinnedFloats(1);
        ParameterServerClient client = await job.OpenAsync(dense.Length, [table], cancellationToken);
        client.Initialize(dense.Parameter);
        long clock = 0;
        // Rows are stored at their first push: the same batches again find them.
        foreach (long[] ids in batches) Step(ids);
        long start = Stopwatch.GetTimestamp();
        foreach (long[] ids in batches) Step(ids);
        return Stopwatch.GetElapsedTime(start).TotalSeconds / batches.Length;

        void Step(long[] ids)
        {
            var values = new float[ids.Length * table.Dimension];
            client.PullRows(0, ids, values);
            client.Push(new StepPush { Clock = clock++, LearningRate = 0.01, Gradients = dense.Parameter, Rows = [new RowGradients(0, ids, values)] });
        }
    }

    private static async Task<double> DenseSecondsAsync(string skein, JobSettings settings, int length, CancellationToken cancellationToken)
    {
        const int warmUp = 5, steps = 20;
        await using ServerJob job = await ServerJob.StartAsync(skein, settings, cancellationToken);
        using PinnedFloats values = new(length), gradients = new(length, 1e-3f);
        ParameterServerClient client = await job.OpenAsync(length, [], cancellationToken);
        client.Initialize(values.Parameter);
        long start = 0;
        for (int clock = 0; clock < warmUp + steps; clock++)
        {
            if (clock == warmUp) start = Stopwatch.GetTimestamp();
            client.PushPull(new StepPush { Clock = clock, LearningRate = 0.01, Gradients = gradients.Parameter }, values.Parameter);
        }

        return Stopwatch.GetElapsedTime(start).TotalSeconds / steps;
    }

    /// <summary>Distinct ids out of <paramref name="count"/> draws from a continuous power law, rounded down: nearly Zipf's.</summary>
    private static long[] Draw(Random random, int count, long rows, double exponent)
    {
        double power = 1 - exponent, range = Math.Pow(rows, power) - 1;
        return [.. Enumerable.Range(0, count).Select(_ => Math.Min(rows, (long)Math.Pow((random.NextDouble() * range) + 1, 1 / power)) - 1).Distinct()];
    }
}

using Skein.ParameterServer;
using Skein.ParameterServer.Control;
using Skein.Training.ParameterServers;

namespace Skein.Cli.Train;

/// <summary>What the parameter servers have seen, for the summary.</summary>
internal static class ServerUsage
{
    /// <summary>
    /// Adds the servers' fields. Staleness is counted as the consistency bounds it: with a bound by how many clocks a
    /// pull was ahead of the slowest worker, else by the updates between a worker's pull and its push.
    /// </summary>
    public static async Task<TrainSummary> AddAsync(TrainSummary summary, ParameterServerStrategy servers, CancellationToken cancellationToken)
    {
        IReadOnlyList<ShardStatistics> shards = await servers.GetStatisticsAsync(cancellationToken);
        bool bounded = Consistency.Parse(servers.Settings.Consistency) is { Bound: > 0 };
        long[] histogram = Add(shards.Select(shard => bounded ? shard.ClockStaleness : shard.UpdateStaleness));
        long count = histogram.Sum();
        return summary with
        {
            Servers = servers.Settings.Servers,
            Consistency = servers.Settings.Consistency,
            MeanStaleness = count == 0 ? 0 : histogram.Index().Sum(static entry => (double)entry.Index * entry.Item) / count,
            MaxStaleness = Array.FindLastIndex(histogram, static seen => seen > 0) is >= 0 and var last ? last : 0,
            StalenessHistogram = histogram,
            ServerUpdates = [.. shards.Select(static shard => shard.Updates)],
            ResumedFromStep = servers.ResumedFrom,
        };
    }

    private static long[] Add(IEnumerable<IReadOnlyList<long>> histograms)
    {
        IReadOnlyList<long>[] all = [.. histograms];
        var sum = new long[all.Max(static histogram => histogram.Count)];
        foreach (IReadOnlyList<long> histogram in all)
        {
            for (int i = 0; i < histogram.Count; i++) sum[i] += histogram[i];
        }

        return sum;
    }
}

using Skein.ParameterServer.Control;

namespace Skein.ParameterServer.Shards;

/// <summary>What a shard has seen. Not thread-safe.</summary>
internal sealed class ShardCounts(int shard)
{
    private readonly HashSet<int> left = [];

    public int Shard { get; } = shard;

    public long Pushes { get; set; }

    public long Pulls { get; set; }

    public long Rejected { get; set; }

    /// <summary>By how many clocks a served pull was ahead of the slowest worker.</summary>
    public Histogram ClockStaleness { get; } = new();

    /// <summary>How many updates came between a worker's pull and its push.</summary>
    public Histogram UpdateStaleness { get; } = new();

    public void Left(int worker) => left.Add(worker);

    public void Returned(int worker) => left.Remove(worker);

    public bool HasLeft(int worker) => left.Contains(worker);

    public ShardStatistics Snapshot(long generation, long updates, long storedRows, long received, long sent) => new()
    {
        Shard = Shard,
        Generation = generation,
        Updates = updates,
        Pushes = Pushes,
        Pulls = Pulls,
        BytesReceived = received,
        BytesSent = sent,
        RejectedPushes = Rejected,
        StoredRows = storedRows,
        ClockStaleness = ClockStaleness.ToArray(),
        UpdateStaleness = UpdateStaleness.ToArray(),
    };
}

/// <summary>Counts of small whole numbers; large ones count as the largest.</summary>
internal sealed class Histogram
{
    private const int Largest = 1023;
    private readonly List<long> counts = [];

    public void Add(long value)
    {
        int index = (int)Math.Min(value, Largest);
        while (counts.Count <= index) counts.Add(0);
        counts[index]++;
    }

    public long[] ToArray() => [.. counts];
}

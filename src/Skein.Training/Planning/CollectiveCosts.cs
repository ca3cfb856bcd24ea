namespace Skein.Training.Planning;

/// <summary>
/// How long collectives take: a latency for each message that waits for another, and a time for each byte that a rank sends (Thakur et al.
/// 2005, "Optimization of collective communication operations in MPICH", section 3). Immutable.
/// </summary>
public sealed class CollectiveCosts
{
    private readonly Dictionary<CollectiveKind, (double Latency, double PerByte)> costs = [];

    private CollectiveCosts(bool sharedMemory) => SharedMemory = sharedMemory;

    /// <summary>Whether the ranks share memory, which decides how many bytes they send.</summary>
    public bool SharedMemory { get; }

    /// <summary>Those of a network, over which a rank sends at a given rate.</summary>
    /// <param name="bytesPerSecond">Of each rank, above 0.</param>
    /// <param name="latency">Seconds of each message, 0 or more.</param>
    public static CollectiveCosts OfLink(double bytesPerSecond, double latency)
    {
        var all = new CollectiveCosts(sharedMemory: false);
        foreach (CollectiveKind kind in Enum.GetValues<CollectiveKind>()) all.costs[kind] = (latency, 1 / bytesPerSecond);
        return all;
    }

    /// <summary>Those that were measured between so many ranks, for two sizes of the whole buffer each.</summary>
    /// <param name="ranks">2 or more; 1 needs no measurements.</param>
    /// <param name="sharedMemory">Whether they share memory.</param>
    /// <param name="measurements">Bytes and seconds of a small and a large buffer.</param>
    public static CollectiveCosts Measured(
        int ranks, bool sharedMemory, IReadOnlyDictionary<CollectiveKind, ((double Bytes, double Seconds) Small, (double Bytes, double Seconds) Large)> measurements)
    {
        ArgumentNullException.ThrowIfNull(measurements);
        var all = new CollectiveCosts(sharedMemory);
        foreach ((CollectiveKind kind, var measured) in measurements)
        {
            double sent = CollectiveVolume.BytesSent(kind, ranks, measured.Large.Bytes - measured.Small.Bytes, sharedMemory);
            double perByte = Math.Max(0, measured.Large.Seconds - measured.Small.Seconds) / sent;
            double latency = Math.Max(0, measured.Small.Seconds - (perByte * CollectiveVolume.BytesSent(kind, ranks, measured.Small.Bytes, sharedMemory)));
            all.costs[kind] = (latency / CollectiveVolume.Steps(kind, ranks), perByte);
        }

        return all;
    }

    /// <summary>The seconds of one collective between so many ranks; 0 for one alone.</summary>
    public double Seconds(CollectiveKind kind, int ranks, double bytes)
    {
        if (ranks == 1) return 0;
        (double latency, double perByte) = costs[kind];
        return (CollectiveVolume.Steps(kind, ranks) * latency) + (CollectiveVolume.BytesSent(kind, ranks, bytes, SharedMemory) * perByte);
    }
}

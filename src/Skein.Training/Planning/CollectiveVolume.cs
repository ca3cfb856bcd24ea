namespace Skein.Training.Planning;

/// <summary>What ranks do together.</summary>
public enum CollectiveKind
{
    /// <summary>Every rank gets the sum.</summary>
    AllReduce,

    /// <summary>Every rank gets all parts.</summary>
    AllGather,

    /// <summary>Every rank gets its part of the sum.</summary>
    ReduceScatter,

    /// <summary>One rank sends to another.</summary>
    SendReceive,
}

/// <summary>
/// Messages and bytes of a collective, as <c>docs/algorithms.md</c> has them: over a network those of a ring (Patarasuk and Yuan 2009,
/// "Bandwidth optimal all-reduce algorithms"), in one host those of memory that the ranks share.
/// </summary>
public static class CollectiveVolume
{
    /// <summary>How many messages wait for one another.</summary>
    public static int Steps(CollectiveKind kind, int ranks) => ranks == 1 ? 0 : kind switch
    {
        CollectiveKind.AllReduce => 2 * (ranks - 1),
        CollectiveKind.SendReceive => 1,
        _ => ranks - 1,
    };

    /// <summary>The bytes that each rank sends.</summary>
    /// <param name="kind">What they do.</param>
    /// <param name="ranks">How many they are.</param>
    /// <param name="bytes">Of the whole buffer: all parts together for an all-gather.</param>
    /// <param name="sharedMemory">Whether they share memory, where a gathered part is written once for all to read, and each rank writes its part of a sum to the others.</param>
    public static double BytesSent(CollectiveKind kind, int ranks, double bytes, bool sharedMemory = false)
    {
        if (kind == CollectiveKind.SendReceive) return bytes;
        double others = bytes * (ranks - 1) / ranks;
        return (kind, sharedMemory) switch
        {
            (CollectiveKind.AllReduce, false) => 2 * others,
            (CollectiveKind.AllGather, true) => ranks == 1 ? 0 : bytes / ranks,
            _ => others,
        };
    }
}

namespace Skein.ParameterServer.Control;

/// <summary>What a server has done since it started. Immutable.</summary>
public sealed record ShardStatistics
{
    /// <summary>The shard's index.</summary>
    public int Shard { get; init; }

    /// <summary>How often the shard's backup was promoted.</summary>
    public long Generation { get; init; }

    /// <summary>Updates applied to the parameters.</summary>
    public long Updates { get; init; }

    /// <summary>Pushes accepted.</summary>
    public long Pushes { get; init; }

    /// <summary>Pulls served.</summary>
    public long Pulls { get; init; }

    /// <summary>Bytes received from workers.</summary>
    public long BytesReceived { get; init; }

    /// <summary>Bytes sent to workers.</summary>
    public long BytesSent { get; init; }

    /// <summary>Pushes dropped, because they came twice or from a worker that was lost.</summary>
    public long RejectedPushes { get; init; }

    /// <summary>Rows stored in sparse tables.</summary>
    public long StoredRows { get; init; }

    /// <summary>A histogram: at index k, the pulls that were k clocks ahead of the slowest worker when they were served.</summary>
    public IReadOnlyList<long> ClockStaleness { get; init; } = [];

    /// <summary>A histogram: at index k, the pushes before which k updates were applied since their worker's pull.</summary>
    public IReadOnlyList<long> UpdateStaleness { get; init; } = [];
}

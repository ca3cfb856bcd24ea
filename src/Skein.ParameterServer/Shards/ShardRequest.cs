using Skein.ParameterServer.Wire;

namespace Skein.ParameterServer.Shards;

/// <summary>A message as it came, with its payload read.</summary>
/// <param name="Header">What it is.</param>
/// <param name="Peer">Where the answer goes.</param>
internal sealed record ShardRequest(MessageHeader Header, ShardConnection Peer)
{
    /// <summary>When it came, in ticks of the stopwatch.</summary>
    public long Arrived { get; } = System.Diagnostics.Stopwatch.GetTimestamp();

    /// <summary>Of <see cref="MessageKind.Open"/>.</summary>
    public ShardLayout? Layout { get; init; }

    /// <summary>Of <see cref="MessageKind.Push"/> and <see cref="MessageKind.Initialize"/>.</summary>
    public StagedPush? Push { get; init; }

    /// <summary>Of <see cref="MessageKind.PullRows"/>.</summary>
    public long[] Ids { get; init; } = [];

    public int Worker => Header.Worker;
}

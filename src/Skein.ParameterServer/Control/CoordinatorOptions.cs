using Microsoft.Extensions.Logging;
using Skein.Collectives.Rendezvous;

namespace Skein.ParameterServer.Control;

/// <summary>How a job with parameter servers is made up. Immutable.</summary>
public sealed record CoordinatorOptions
{
    /// <summary>The number of shards, at least 1.</summary>
    public int Servers { get; init; } = 1;

    /// <summary>How many servers hold each shard: 1, or 2 for a primary and a backup.</summary>
    public int Replicas { get; init; } = 1;

    /// <summary>The number of workers that the job starts with, at least 1.</summary>
    public int Workers { get; init; } = 1;

    /// <summary>Whether workers other than 0 may be lost, and others join: work is then handed out in chunks.</summary>
    public bool Elastic { get; init; }

    /// <summary>Handed to every member unread.</summary>
    public string Settings { get; init; } = "";

    /// <summary>
    /// How long to wait for missing members, for contributions to a sum, and for chunks that others hold:
    /// <c>SKEIN_TIMEOUT_SECONDS</c>, or 300 s.
    /// </summary>
    public TimeSpan Timeout { get; init; } = LauncherEnvironment.ReadTimeout() ?? TimeSpan.FromSeconds(300);

    /// <summary>How long a server may be silent before it counts as lost; members speak each second.</summary>
    public TimeSpan ServerHeartbeatTimeout { get; init; } = TimeSpan.FromSeconds(4);

    /// <summary>How long a worker may be silent before it counts as lost; members speak each second.</summary>
    public TimeSpan WorkerHeartbeatTimeout { get; init; } = TimeSpan.FromSeconds(15);

    /// <summary>Where to log; null for nowhere.</summary>
    public ILogger? Logger { get; init; }

    internal void Validate()
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(Servers, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(Workers, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(Replicas, 1);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(Replicas, 2);
        ArgumentOutOfRangeException.ThrowIfLessThanOrEqual(Timeout, TimeSpan.Zero);
        ArgumentOutOfRangeException.ThrowIfLessThanOrEqual(ServerHeartbeatTimeout, TimeSpan.Zero);
        ArgumentOutOfRangeException.ThrowIfLessThanOrEqual(WorkerHeartbeatTimeout, TimeSpan.Zero);
    }
}

using System.Net;
using Skein.ParameterServer;

namespace Skein.Hosting.ParameterServers;

/// <summary>
/// The parameter servers that a launcher starts beside the ranks of a job. Node 0's launcher hosts the coordinator; server i of them
/// runs on node i modulo the number of nodes. Immutable.
/// </summary>
public sealed record ServerLaunch
{
    /// <summary>What the members of the job agree on; the number of shards and of workers among it.</summary>
    public required JobSettings Settings { get; init; }

    /// <summary>How many servers hold each shard: 1, or 2 for a primary and a backup.</summary>
    public int Replicas { get; init; } = 1;

    /// <summary>How many consecutive ranks are one worker to the servers, the first of them for all; at least 1.</summary>
    public int RanksPerWorker { get; init; } = 1;

    /// <summary>The program of a server, which finds the coordinator in its environment.</summary>
    public required string Program { get; init; }

    /// <summary>The program's arguments; behind them come <c>--listen</c> and the address to listen at.</summary>
    public IReadOnlyList<string> Arguments { get; init; } = [];

    /// <summary>Told on node 0 where members register, before any of them is started.</summary>
    public Action<IPEndPoint> Started { get; init; } = static _ => { };

    /// <summary>The number of server processes.</summary>
    internal int Processes => Settings.Servers * Replicas;
}

using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;
using Skein.Collectives.Rendezvous;

namespace Skein.Collectives;

/// <summary>What carries the bytes between ranks.</summary>
public enum TransportKind : byte
{
    /// <summary>Shared memory inside a host, TCP between hosts; MPI when mpirun gave no other rendezvous.</summary>
    Auto,

    /// <summary>TCP sockets.</summary>
    Tcp,

    /// <summary>Memory mapped by all ranks of one host.</summary>
    SharedMemory,

    /// <summary>Open MPI's point-to-point messages (<c>libmpi.so</c>).</summary>
    Mpi,

    /// <summary>Ranks that are threads of one process: for tests and simulation.</summary>
    InProcess,
}

/// <summary>How an all-reduce is carried out; docs/algorithms.md states steps and bytes of each.</summary>
public enum AllReduceAlgorithm : byte
{
    /// <summary>Chosen by size, world size and topology from a table that is the same on all ranks.</summary>
    Auto,

    /// <summary>Ring reduce-scatter and all-gather, pipelined in chunks (Patarasuk and Yuan 2009).</summary>
    Ring,

    /// <summary>Recursive halving and doubling (Thakur, Rabenseifner and Gropp 2005).</summary>
    HalvingDoubling,

    /// <summary>Binomial-tree reduce, then broadcast.</summary>
    Tree,

    /// <summary>Reduce inside each host, all-reduce between the hosts' leaders, broadcast inside each host.</summary>
    Hierarchical,

    /// <summary>Every rank reduces its slice straight from its peers' shared memory. Shared memory only.</summary>
    Direct,
}

/// <summary>How a process joins a job. Immutable.</summary>
public sealed record ProcessGroupOptions
{
    /// <summary>This process's rank, from 0 to <see cref="WorldSize"/> - 1.</summary>
    public int Rank { get; init; }

    /// <summary>The number of ranks, at least 1.</summary>
    public int WorldSize { get; init; } = 1;

    /// <summary>This process's rank among those of its host.</summary>
    public int LocalRank { get; init; }

    /// <summary>The number of ranks on this host.</summary>
    public int LocalWorldSize { get; init; } = 1;

    /// <summary>Where rank 0 (or the launcher) hosts the store: a name or an address, or several separated by commas, one of which it is.</summary>
    public string MasterAddress { get; init; } = "127.0.0.1";

    /// <summary>What <see cref="MasterAddress"/> was read from, for messages.</summary>
    internal string MasterAddressSetting { get; init; } = "MASTER_ADDR";

    /// <summary>The store's port.</summary>
    public int MasterPort { get; init; }

    /// <summary>Names the torchrun that started this process, where its own store holds <see cref="MasterPort"/>; else null.</summary>
    internal string? Agent { get; init; }

    /// <summary>True when the launcher hosts the store, so that rank 0 must not.</summary>
    public bool StoreHostedByLauncher { get; init; }

    /// <summary>A Redis connection string to use as the store instead of the TCP store, or null.</summary>
    public string? RedisStore { get; init; }

    /// <summary>The job's name: what keeps jobs apart that share a Redis store.</summary>
    public string JobId { get; init; } = "default";

    /// <summary>The job's secret; required when <see cref="WorldSize"/> is over 1, except under MPI, which makes one.</summary>
    public JobSecret? Secret { get; init; }

    /// <summary>
    /// Whether the bytes of TCP connections are encrypted, and so safe from being read or changed on the way; the same on all
    /// ranks. Shared memory and MPI carry theirs in the clear.
    /// </summary>
    public bool Encryption { get; init; }

    /// <summary>The longest that any wait may take. Default 300 seconds.</summary>
    public TimeSpan Timeout { get; init; } = TimeSpan.FromSeconds(300);

    /// <summary>What carries the bytes.</summary>
    public TransportKind Transport { get; init; } = TransportKind.Auto;

    /// <summary>The all-reduce algorithm.</summary>
    public AllReduceAlgorithm Algorithm { get; init; } = AllReduceAlgorithm.Auto;

    /// <summary>
    /// Names the host for the choice of transport: ranks with the same name share memory. Null for this machine; other
    /// values serve to try out several hosts on one.
    /// </summary>
    public string? HostId { get; init; }

    /// <summary>Sends as over this slower network, over TCP whatever the host; null for the network as it is.</summary>
    public NetworkEmulation? Emulation { get; init; }

    /// <summary>Where the flight recorder is dumped on failure and on SIGQUIT; null for the temporary folder.</summary>
    public string? FlightRecorderDirectory { get; init; }

    /// <summary>Where warnings and failures are logged.</summary>
    public ILogger Logger { get; init; } = NullLogger.Instance;
}

namespace Skein.ParameterServer.Control;

/// <summary>The state of a job as its coordinator last told it. Immutable.</summary>
public sealed record JobView
{
    /// <summary>Increases at every change of <see cref="Shards"/>.</summary>
    public long Generation { get; init; }

    /// <summary>What the job's starter hands to every member, opaque to the control plane.</summary>
    public string Settings { get; init; } = "";

    /// <summary>Whether all servers have registered.</summary>
    public bool Ready { get; init; }

    /// <summary>Whether the job ended well: all its workers have left.</summary>
    public bool Finished { get; init; }

    /// <summary>Why the job failed, naming the member; null as long as it has not. Final.</summary>
    public string? Failure { get; init; }

    /// <summary>The shards that have a server, by index.</summary>
    public IReadOnlyList<ShardView> Shards { get; init; } = [];

    /// <summary>The ids of the workers that have registered and neither left nor were lost, in increasing order.</summary>
    public IReadOnlyList<int> Workers { get; init; } = [];

    /// <summary>By which servers recognise workers: of all that have ever registered, by id. Empty where a worker sees it.</summary>
    internal IReadOnlyDictionary<int, Guid> WorkerTokens { get; init; } = new Dictionary<int, Guid>();

    /// <summary>By which servers recognise each other, as <see cref="WorkerTokens"/>.</summary>
    internal IReadOnlyDictionary<int, Guid> ServerTokens { get; init; } = new Dictionary<int, Guid>();

    /// <summary>Whether nothing will change any more.</summary>
    public bool HasEnded => Finished || Failure is not null;
}

/// <summary>Who serves a shard.</summary>
/// <param name="Index">From 0 to the number of shards - 1.</param>
/// <param name="Generation">How often its backup was promoted: what an earlier primary says counts no more.</param>
/// <param name="Primary">The server that workers talk to.</param>
/// <param name="Backup">The server that takes over when the primary is lost; null when there is none (any more).</param>
public sealed record ShardView(int Index, long Generation, ServerView Primary, ServerView? Backup);

/// <summary>A server of the job.</summary>
/// <param name="Id">Servers are numbered from 0 in the order in which they registered.</param>
/// <param name="Host">The name or address at which the other members reach it.</param>
/// <param name="DataPort">Its port for pushes and pulls.</param>
/// <param name="ControlPort">Its port for gRPC.</param>
/// <param name="ProcessId">The process's number on its host.</param>
public sealed record ServerView(int Id, string Host, int DataPort, int ControlPort, int ProcessId);

/// <summary>A sum over workers.</summary>
/// <param name="Sums">Element by element, added in the order of the workers' ids.</param>
/// <param name="Workers">The ids of the workers that contributed, in increasing order.</param>
public sealed record SumResult(IReadOnlyList<double> Sums, IReadOnlyList<int> Workers);

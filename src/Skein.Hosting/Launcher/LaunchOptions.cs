using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;
using Skein.Collectives.Rendezvous;
using Skein.Hosting.ParameterServers;

namespace Skein.Hosting;

/// <summary>What a launcher shows of its workers' output while they run.</summary>
public enum LaunchOutput
{
    /// <summary>Every whole line of every rank, behind <c>[rank] </c>.</summary>
    Prefixed,

    /// <summary>Rank 0's output as it is, and nothing of the other ranks, whose output is in their logs.</summary>
    RankZero,

    /// <summary>Nothing; all output is in the logs.</summary>
    None,
}

/// <summary>What to launch. Immutable.</summary>
public sealed record LaunchOptions
{
    /// <summary>The program of every rank: a path, or a name to be found on PATH.</summary>
    public required string Program { get; init; }

    /// <summary>The program's arguments.</summary>
    public IReadOnlyList<string> Arguments { get; init; } = [];

    /// <summary>The number of processes that each node starts, at least 1 and the same on all nodes.</summary>
    public required int ProcessesPerNode { get; init; }

    /// <summary>The number of nodes, each with a launcher of its own; at least 1.</summary>
    public int Nodes { get; init; } = 1;

    /// <summary>This launcher's node, from 0 to <see cref="Nodes"/> - 1.</summary>
    public int NodeRank { get; init; }

    /// <summary>The address at which node 0's launcher is reached by the others; needed when <see cref="Nodes"/> is over 1.</summary>
    public string? RendezvousHost { get; init; }

    /// <summary>The port at which node 0's launcher listens; 0 (one node only) lets the operating system choose.</summary>
    public int RendezvousPort { get; init; }

    /// <summary>The job's secret; null makes one, which only a job of one node can do.</summary>
    public JobSecret? Secret { get; init; }

    /// <summary>The longest wait for the other nodes' launchers. Default 300 seconds.</summary>
    public TimeSpan Timeout { get; init; } = TimeSpan.FromSeconds(300);

    /// <summary>
    /// Where each rank's output is kept as <c>rank-N.log</c>; null keeps none. Node 0's launcher keeps the folder for this job alone.
    /// </summary>
    public string? RunDirectory { get; init; }

    /// <summary>What is shown of the output. Default: all of it, with prefixes.</summary>
    public LaunchOutput Output { get; init; } = LaunchOutput.Prefixed;

    /// <summary>
    /// Processes of this node that serve the ranks: started before them, and ended after them. The job does not fail
    /// with one of these.
    /// </summary>
    public IReadOnlyList<CompanionProcess> Companions { get; init; } = [];

    /// <summary>The parameter servers of the job, the same on all nodes; null for none.</summary>
    public ServerLaunch? Servers { get; init; }

    /// <summary>Whether the job goes on when that rank fails. Default: with none.</summary>
    public Func<int, bool> SurvivesLossOf { get; init; } = static _ => false;

    /// <summary>
    /// How many times in all this launcher starts a rank again that failed and whose loss the job survives, as long as some
    /// rank of this node runs that the job cannot do without, if it has one. Default: 0.
    /// </summary>
    public int Restarts { get; init; }

    /// <summary>Told, in words and without a full stop, of every failure that the job survives, and whether that rank is started again.</summary>
    public Action<string> LossSurvived { get; init; } = static _ => { };

    /// <summary>
    /// Where it is reported which clients the launcher refuses, and which members a job with parameter servers lost and goes on without.
    /// </summary>
    public ILogger Logger { get; init; } = NullLogger.Instance;

    /// <summary>Variables that the workers get in addition to this process's environment.</summary>
    public IReadOnlyDictionary<string, string> Environment { get; init; } = new Dictionary<string, string>();
}

/// <summary>A process that serves the ranks of a job: without a rank, and by default the ranks' program with other arguments.</summary>
/// <param name="Name">Names its log, <c>NAME.log</c>.</param>
/// <param name="Arguments">The program's arguments.</param>
public sealed record CompanionProcess(string Name, IReadOnlyList<string> Arguments)
{
    /// <summary>Its program; null for that of the ranks.</summary>
    public string? Program { get; init; }
}

/// <summary>How a launched job ended.</summary>
/// <param name="ExitCode">0 when every rank succeeded, 130 when interrupted, else the first failing rank's (128 + n for signal n).</param>
/// <param name="FailedRank">The first rank that failed on this node, or null.</param>
/// <param name="Failure">What happened, in words and without a full stop; null when the job succeeded.</param>
public sealed record LaunchOutcome(int ExitCode, int? FailedRank, string? Failure)
{
    /// <summary>The last lines that each rank of this node wrote.</summary>
    public IReadOnlyDictionary<int, IReadOnlyList<string>> LastLines { get; init; } = new Dictionary<int, IReadOnlyList<string>>();

    /// <summary>Whether this launcher itself was interrupted, by a signal or by its token: its user knows why the job ended.</summary>
    public bool IsInterrupted { get; private init; }

    internal static LaunchOutcome Interrupted { get; } = new(130, null, "interrupted") { IsInterrupted = true };
}

/// <summary>The job could not be started: a missing program, a port in use, nodes that disagree.</summary>
public sealed class LaunchException : Exception
{
    /// <summary>Says what was wrong, with the value, and what to do.</summary>
    public LaunchException(string message, Exception? inner = null) : base(message, inner) { }
}

using System.Security.Cryptography;
using System.Text.RegularExpressions;
using Skein.Collectives.Rendezvous;
using Skein.Hosting.ParameterServers;

namespace Skein.Hosting;

/// <summary>
/// Starts the processes of a job on this node and watches over them until all have ended. While it runs it handles
/// this process's SIGINT, SIGTERM, SIGHUP and SIGQUIT, and passes them on to the workers.
/// </summary>
public static partial class Launcher
{
    /// <summary>
    /// Runs the job to its end. When a rank fails, or the launcher is interrupted, every process of the job is ended
    /// within five seconds; none is left behind, even when the launcher itself is killed.
    /// </summary>
    /// <param name="options">What to launch.</param>
    /// <param name="cancellationToken">Ends the job as SIGTERM does.</param>
    /// <exception cref="ArgumentOutOfRangeException">A number in <paramref name="options"/> is out of its range.</exception>
    /// <exception cref="LaunchException">The job could not be started.</exception>
    public static async Task<LaunchOutcome> RunAsync(LaunchOptions options, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(options);
        Check(options);
        options = options with { Program = ProgramPath.Find(options.Program) };
        // Nodes may share the folder, with logs of their own.
        using RunDirectoryLock? held = options is { RunDirectory: { } directory, NodeRank: 0 } ? RunDirectoryLock.Take(directory) : null;
        if (options.Nodes == 1) held?.Clear();

        using var workers = new WorkerGroup();
        using var interruption = new Interruption(cancellationToken);
        try
        {
            var outcome = await RunAsync(options, workers, interruption).ConfigureAwait(false);
            await workers.DrainAsync().ConfigureAwait(false);
            return outcome with { LastLines = workers.LastLines() };
        }
        catch (OperationCanceledException) when (interruption.First.IsCompleted)
        {
            return LaunchOutcome.Interrupted;
        }
    }

    private static async Task<LaunchOutcome> RunAsync(LaunchOptions options, WorkerGroup workers, Interruption interruption)
    {
        var secret = options.Secret ?? JobSecret.Generate(LauncherEnvironment.ReadEncryption());
        await using var nodes = await NodeRendezvous.JoinAsync(options, secret, JobId(), interruption.Token).ConfigureAwait(false);
        interruption.QuitAsked = () => _ = workers.AskForDumpsAsync(nodes);
        await using var servers = options.Servers is { } launch
            ? await LaunchedServers.StartAsync(launch, options, nodes, secret, interruption.Token).ConfigureAwait(false)
            : null;
        if (servers is not null)
        {
            options = options with
            {
                Companions = [.. servers.Processes, .. options.Companions],
                Environment = new Dictionary<string, string>(options.Environment.Append(servers.Variable)),
            };
        }

        var launchId = Convert.ToHexStringLower(RandomNumberGenerator.GetBytes(16));
        await using var sweeper = Sweeper.Start(launchId);
        foreach (var companion in options.Companions)
        {
            var environment = WorkerEnvironment.CreateForCompanion(options, secret, nodes.JobId);
            environment[Sweeper.Mark] = launchId;
            Add(WorkerProcess.Start(companion, options, environment));
        }

        var first = options.NodeRank * options.ProcessesPerNode;
        for (var rank = first; rank < first + options.ProcessesPerNode; rank++) Add(Start(rank, again: false));
        return await workers.WatchAsync(nodes, servers, options, rank => Start(rank, again: true), interruption).ConfigureAwait(false);

        void Add(WorkerProcess process)
        {
            workers.Add(process);
            servers?.Watch(process);
        }

        WorkerProcess Start(int rank, bool again)
        {
            var environment = WorkerEnvironment.Create(options, rank - first, nodes.Endpoint, secret, nodes.JobId);
            environment[Sweeper.Mark] = launchId;
            return WorkerProcess.Start(rank, again, options, environment);
        }
    }

    private static void Check(LaunchOptions options)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(options.ProcessesPerNode, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(options.Nodes, 1);
        ArgumentOutOfRangeException.ThrowIfNegative(options.NodeRank);
        ArgumentOutOfRangeException.ThrowIfNegative(options.Restarts);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(options.NodeRank, options.Nodes);
        ArgumentOutOfRangeException.ThrowIfNegative(options.RendezvousPort);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(options.RendezvousPort, 65535);
        if (options.Nodes == 1) return;
        if (options.RendezvousHost is null || options.RendezvousPort == 0)
        {
            throw new LaunchException(
                $"a job of {options.Nodes} nodes needs --rendezvous HOST:PORT, the address at which node 0 is reached by the others");
        }

        if (options.Secret is null)
        {
            throw new LaunchException(
                $"a job of {options.Nodes} nodes needs the same secret on each: set SKEIN_JOB_SECRET, or SKEIN_JOB_SECRET_FILE, "
                + "to the output of: openssl rand -hex 32");
        }
    }

    // The job's name goes into names of files and of keys, so one from outside is checked.
    private static string JobId()
    {
        if (Environment.GetEnvironmentVariable("SKEIN_JOB_ID") is not { Length: > 0 } given)
        {
            return Convert.ToHexStringLower(RandomNumberGenerator.GetBytes(6));
        }

        return SafeName().IsMatch(given)
            ? given
            : throw new LaunchException($"SKEIN_JOB_ID is '{given}': give 1 to 64 letters, digits, dots, dashes or underscores");
    }

    [GeneratedRegex("^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    private static partial Regex SafeName();
}

using System.Net;
using Skein.Collectives;
using Skein.Collectives.Rendezvous;
using Skein.ParameterServer.Control;

namespace Skein.Hosting.ParameterServers;

/// <summary>This node's part in the parameter servers of a launched job: on node 0 the coordinator, on each some of the servers.</summary>
internal sealed class LaunchedServers : IAsyncDisposable
{
    private static readonly TimeSpan ToReport = TimeSpan.FromSeconds(5);

    // Ranks that have joined hear of the job's failure, and end by themselves.
    private static readonly TimeSpan ToHear = TimeSpan.FromSeconds(10);

    private readonly ServerLaunch launch;
    private readonly IPEndPoint endpoint;
    private readonly JobSecret secret;
    private readonly CoordinatorHost? coordinator;
    private readonly List<Task> ranks = [];

    private LaunchedServers(
        ServerLaunch launch, IPEndPoint endpoint, JobSecret secret, CoordinatorHost? coordinator, CompanionProcess[] processes)
    {
        this.launch = launch;
        this.endpoint = endpoint;
        this.secret = secret;
        this.coordinator = coordinator;
        Processes = processes;
        Failure = FailAsync();
    }

    /// <summary>Completes on node 0 when the job has failed, and its ranks have not ended for a while; on the others never.</summary>
    public Task<LaunchOutcome> Failure { get; }

    /// <summary>The servers of this node, to be started.</summary>
    public IReadOnlyList<CompanionProcess> Processes { get; }

    /// <summary>What the members of the job have in their environment in addition.</summary>
    public KeyValuePair<string, string> Variable => new(CoordinatorClient.AddressVariable, endpoint.ToString());

    /// <summary>Starts the coordinator on node 0, and learns on the others where it is.</summary>
    /// <exception cref="LaunchException">
    /// This node cannot listen at the address by which others reach it, or node 0 did not come that far.
    /// </exception>
    public static async Task<LaunchedServers> StartAsync(
        ServerLaunch launch, LaunchOptions options, NodeRendezvous nodes, JobSecret secret, CancellationToken cancellationToken)
    {
        CoordinatorHost? coordinator = null;
        try
        {
            IPAddress address = options.Nodes == 1
                ? IPAddress.Loopback
                : (await ListenAddress.FindAsync(
                    options.RendezvousHost!, withinHost: false, "--rendezvous", cancellationToken).ConfigureAwait(false)).Address;
            coordinator = options.NodeRank == 0
                ? await StartCoordinatorAsync(launch, options, address, secret, cancellationToken).ConfigureAwait(false)
                : null;
            string told = await nodes.ShareAsync("coordinator", coordinator?.Endpoint.ToString(), cancellationToken).ConfigureAwait(false);
            if (coordinator is not null) launch.Started(coordinator.Endpoint);
            string[] arguments = [.. launch.Arguments, "--listen", address.ToString()];
            return new LaunchedServers(launch, IPEndPoint.Parse(told), secret, coordinator,
            [
                .. Enumerable.Range(0, launch.Processes).Where(server => server % options.Nodes == options.NodeRank)
                    .Select(server => new CompanionProcess($"server-{server}", arguments) { Program = launch.Program }),
            ]);
        }
        catch (Exception error)
        {
            if (coordinator is not null) await coordinator.DisposeAsync().ConfigureAwait(false);
            if (error is not SkeinException) throw;
            throw new LaunchException($"node {options.NodeRank} could not start its part of the parameter servers: {error.Message}", error);
        }
    }

    /// <summary>Tells the coordinator when the process ends: the others need not wait for one that never joined.</summary>
    public void Watch(WorkerProcess process)
    {
        if (process.Rank is { } rank && rank % launch.RanksPerWorker != 0) return;
        var report = ReportAsync(process);
        if (process.Rank is not null) ranks.Add(report);
    }

    /// <summary>After the ranks of this node have ended: waits on node 0 until the job has too.</summary>
    /// <returns>Why it failed; null when it has not, or on another node.</returns>
    public async Task<string?> FinishAsync()
    {
        await Task.WhenAll(ranks).ConfigureAwait(false);
        return coordinator is null ? null : await coordinator.Finished.ConfigureAwait(false);
    }

    /// <summary>Stops the coordinator.</summary>
    public ValueTask DisposeAsync() => coordinator?.DisposeAsync() ?? ValueTask.CompletedTask;

    private static Task<CoordinatorHost> StartCoordinatorAsync(
        ServerLaunch launch, LaunchOptions options, IPAddress address, JobSecret secret, CancellationToken cancellationToken) =>
        CoordinatorHost.StartAsync(
            new CoordinatorOptions
            {
                Servers = launch.Settings.Servers,
                Replicas = launch.Replicas,
                Workers = launch.Settings.Workers,
                Elastic = launch.Settings.Elastic,
                Settings = launch.Settings.ToJson(),
                Timeout = TimeSpan.FromSeconds(launch.Settings.TimeoutSeconds),
                Logger = options.Logger,
            },
            secret, new IPEndPoint(address, 0), cancellationToken);

    private async Task<LaunchOutcome> FailAsync()
    {
        if (coordinator is not null && await coordinator.Finished.ConfigureAwait(false) is { } failure)
        {
            await Task.Delay(ToHear).ConfigureAwait(false);
            return new LaunchOutcome(1, null, failure);
        }

        return await new TaskCompletionSource<LaunchOutcome>().Task.ConfigureAwait(false);
    }

    private async Task ReportAsync(WorkerProcess process)
    {
        string how = Signals.Describe(await process.Exited.ConfigureAwait(false));
        Departure departure = process.Rank is { } rank
            ? new WorkerDeparture(rank / launch.RanksPerWorker, process.Id, how)
            : new ServerDeparture(process.Name, process.Id, how);
        try
        {
            await CoordinatorClient.ReportAsync(endpoint.Address.ToString(), endpoint.Port, secret, departure, ToReport)
                .ConfigureAwait(false);
        }
        catch (SkeinException)
        {
            // The coordinator is gone, so that nobody waits there for anybody.
        }
    }
}

using System.Globalization;
using System.Net;
using System.Text;
using Skein.Collectives;
using Skein.Collectives.Rendezvous;

namespace Skein.Hosting;

/// <summary>
/// Where the launchers of a job's nodes meet. Node 0 hosts the store, which the workers use too; through it the
/// launchers agree on the job's name and tell each other that a node failed or finished.
/// </summary>
internal sealed class NodeRendezvous : IAsyncDisposable
{
    private static readonly TimeSpan Beat = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan SilenceLimit = TimeSpan.FromSeconds(20);
    private static readonly TimeSpan ToLeave = TimeSpan.FromSeconds(3);

    private readonly LaunchOptions options;
    private readonly TcpStoreServer? server;
    private readonly TcpStore? store;
    private readonly CancellationTokenSource closing = new();
    private readonly TaskCompletionSource<LaunchOutcome> failure = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private Task watch = Task.CompletedTask;

    private NodeRendezvous(LaunchOptions options, TcpStoreServer? server, TcpStore? store, string jobId, DnsEndPoint endpoint)
    {
        this.options = options;
        this.server = server;
        this.store = store;
        JobId = jobId;
        Store = endpoint;
    }

    /// <summary>The job's name, the same on all nodes.</summary>
    public string JobId { get; }

    /// <summary>Where workers find the store.</summary>
    public DnsEndPoint Store { get; }

    /// <summary>Done when another node failed or was lost.</summary>
    public Task<LaunchOutcome> Failure => failure.Task;

    /// <exception cref="LaunchException">The port is in use, node 0 was not reached in time, or the nodes disagree.</exception>
    public static async Task<NodeRendezvous> JoinAsync(
        LaunchOptions options, JobSecret secret, string jobId, CancellationToken cancellationToken)
    {
        var server = options.NodeRank == 0 ? Host(options, secret) : null;
        var endpoint = new DnsEndPoint(options.RendezvousHost ?? "127.0.0.1", server?.Endpoint.Port ?? options.RendezvousPort);
        if (options.Nodes == 1) return new NodeRendezvous(options, server, null, jobId, endpoint);

        TcpStore? store = null;
        try
        {
            store = await TcpStore.ConnectAsync(
                endpoint.Host, endpoint.Port, secret, options.Timeout, cancellationToken).ConfigureAwait(false);
            jobId = await AgreeAsync(store, options, jobId, cancellationToken).ConfigureAwait(false);
            var joined = new NodeRendezvous(options, server, store, jobId, endpoint);
            joined.watch = joined.WatchAsync();
            return joined;
        }
        catch (Exception error)
        {
            if (store is not null) await store.DisposeAsync().ConfigureAwait(false);
            if (server is not null) await server.DisposeAsync().ConfigureAwait(false);
            if (error is SkeinException)
            {
                throw new LaunchException(
                    $"node {options.NodeRank} could not join the job at {endpoint.Host}:{endpoint.Port}: {error.Message}", error);
            }

            throw;
        }
    }

    /// <summary>Gives what node 0 has to say to all nodes; the others wait for it.</summary>
    /// <param name="name">What it is, the same on all nodes.</param>
    /// <param name="value">What node 0 says; null on the others.</param>
    /// <param name="cancellationToken">Gives up.</param>
    /// <exception cref="SkeinException">The store is gone, or node 0 did not say it in time.</exception>
    public async Task<string> ShareAsync(string name, string? value, CancellationToken cancellationToken)
    {
        if (store is null) return value!;
        var key = $"launcher/{name}";
        if (value is not null) await store.SetAsync(key, Encoding.UTF8.GetBytes(value), cancellationToken).ConfigureAwait(false);
        return value ?? Encoding.UTF8.GetString(await store.GetAsync(key, options.Timeout, cancellationToken).ConfigureAwait(false));
    }

    /// <summary>Tells the other nodes that this one failed or was interrupted.</summary>
    public async Task AnnounceFailureAsync(LaunchOutcome outcome)
    {
        if (store is null || failure.Task.IsCompleted) return;
        var text = $"{outcome.ExitCode} node {options.NodeRank}: {outcome.Failure}";
        await AttemptAsync(store.CompareAndSetAsync("launcher/failure", null, Encoding.UTF8.GetBytes(text))).ConfigureAwait(false);
    }

    /// <summary>Waits until every node has finished.</summary>
    public async Task FinishAsync()
    {
        if (store is null) return;
        await AttemptAsync(DepartAsync("finished", patience: null)).ConfigureAwait(false);
    }

    /// <summary>Gives the other nodes a moment to hear of a failure, before node 0 takes the store away.</summary>
    public async Task LeaveAsync()
    {
        if (store is null) return;
        await AttemptAsync(DepartAsync("left", ToLeave)).ConfigureAwait(false);
    }

    public async ValueTask DisposeAsync()
    {
        await closing.CancelAsync().ConfigureAwait(false);
        await watch.ConfigureAwait(false);
        if (store is not null) await store.DisposeAsync().ConfigureAwait(false);
        if (server is not null) await server.DisposeAsync().ConfigureAwait(false);
        closing.Dispose();
    }

    private static TcpStoreServer Host(LaunchOptions options, JobSecret secret)
    {
        var local = options.Nodes == 1 || options.RendezvousHost is "localhost" or "127.0.0.1";
        try
        {
            return TcpStoreServer.Start(new IPEndPoint(local ? IPAddress.Loopback : IPAddress.Any, options.RendezvousPort), secret);
        }
        catch (RendezvousException error)
        {
            throw new LaunchException(error.Message, error);
        }
    }

    // Ranks are numbered node by node, so all nodes must have been given the same numbers.
    private static async Task<string> AgreeAsync(TcpStore store, LaunchOptions options, string jobId, CancellationToken cancellationToken)
    {
        var servers = options.Servers is { } launch ? $" with {launch.Processes} servers" : "";
        var mine = $"{options.Nodes} nodes of {options.ProcessesPerNode} processes{servers}";
        if (options.NodeRank == 0)
        {
            await store.SetAsync("launcher/job", Encoding.UTF8.GetBytes($"{jobId}/{mine}"), cancellationToken).ConfigureAwait(false);
        }

        var job = Encoding.UTF8.GetString(await store.GetAsync("launcher/job", options.Timeout, cancellationToken).ConfigureAwait(false));
        var (id, theirs) = job.IndexOf('/', StringComparison.Ordinal) is var at and >= 0 ? (job[..at], job[(at + 1)..]) : (job, "");
        if (theirs != mine)
        {
            var withServers = $"{mine} {theirs}".Contains("servers", StringComparison.Ordinal);
            var same = withServers ? "--nodes, -n, --servers and --replicas" : "--nodes and -n";
            throw new LaunchException(
                $"node {options.NodeRank} was started for {mine}, node 0 for {theirs}: give the same {same} on every node");
        }

        var name = Encoding.UTF8.GetBytes($"{Environment.MachineName}, process {Environment.ProcessId}");
        var key = $"launcher/node/{options.NodeRank}";
        if (await store.CompareAndSetAsync(key, null, name, cancellationToken).ConfigureAwait(false)) return id;
        var other = Encoding.UTF8.GetString(await store.GetAsync(key, options.Timeout, cancellationToken).ConfigureAwait(false));
        throw new LaunchException($"node {options.NodeRank} has joined already ({other}): give each node its own --node-rank");
    }

    // Waits until all nodes have come here too: for as long as it takes when patience is null, since a job may run for days.
    private async Task DepartAsync(string how, TimeSpan? patience)
    {
        if (await store!.AddAsync($"launcher/{how}", 1, closing.Token).ConfigureAwait(false) == options.Nodes)
        {
            await store.SetAsync($"launcher/all-{how}", Array.Empty<byte>(), closing.Token).ConfigureAwait(false);
        }

        while (true)
        {
            try
            {
                await store.GetAsync($"launcher/all-{how}", patience ?? Beat, closing.Token).ConfigureAwait(false);
                return;
            }
            catch (CollectiveTimeoutException) when (patience is null)
            {
                // The watch, meanwhile, reports a node that failed or fell silent.
            }
        }
    }

    private async Task WatchAsync()
    {
        var beats = new long[options.Nodes];
        var heard = new long[options.Nodes];
        Array.Fill(heard, Environment.TickCount64);
        while (!closing.IsCancellationRequested)
        {
            try
            {
                var text = Encoding.UTF8.GetString(await store!.GetAsync("launcher/failure", Beat, closing.Token).ConfigureAwait(false));
                var space = text.IndexOf(' ', StringComparison.Ordinal);
                Fail(int.Parse(text[..space], CultureInfo.InvariantCulture), text[(space + 1)..]);
                return;
            }
            catch (CollectiveTimeoutException)
            {
                // No news: say that this node lives, and listen for the others.
            }
            catch (OperationCanceledException)
            {
                return;
            }
            catch (SkeinException error)
            {
                Fail(1, $"lost the launcher of node 0 at {Store.Host}:{Store.Port}: {error.Message}");
                return;
            }

            if (await FindSilentAsync(beats, heard).ConfigureAwait(false) is { } silent)
            {
                Fail(1, $"the launcher of node {silent} has been silent for {SilenceLimit.TotalSeconds:0} s");
                return;
            }
        }
    }

    private async Task<int?> FindSilentAsync(long[] beats, long[] heard)
    {
        try
        {
            await store!.AddAsync($"launcher/beat/{options.NodeRank}", 1, closing.Token).ConfigureAwait(false);
            for (var node = 0; node < beats.Length; node++)
            {
                var beat = await store.AddAsync($"launcher/beat/{node}", 0, closing.Token).ConfigureAwait(false);
                if (beat != beats[node]) (beats[node], heard[node]) = (beat, Environment.TickCount64);
                // A node that never came is the workers' rendezvous to report, after the job's own timeout.
                if (beat > 0 && Environment.TickCount64 - heard[node] > SilenceLimit.TotalMilliseconds) return node;
            }
        }
        catch (Exception error) when (error is SkeinException or OperationCanceledException)
        {
            // The next round of the watch meets the same error, and reports it.
        }

        return null;
    }

    private void Fail(int exitCode, string what) => failure.TrySetResult(new LaunchOutcome(exitCode, null, what));

    // News of the end is sent on a best effort: a store that is gone says as much to those who wait for it.
    private static async Task AttemptAsync(Task action)
    {
        try
        {
            await action.ConfigureAwait(false);
        }
        catch (Exception error) when (error is SkeinException or OperationCanceledException)
        {
        }
    }
}

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
    private static readonly TimeSpan ShortestSilence = TimeSpan.FromSeconds(5);
    private static readonly TimeSpan LongestSilence = TimeSpan.FromSeconds(20);
    private static readonly TimeSpan ToLeave = TimeSpan.FromSeconds(3);

    private readonly LaunchOptions options;
    private readonly TimeSpan silenceLimit;
    private readonly TcpStoreServer? server;
    private readonly Store store;
    private readonly CancellationTokenSource closing = new();
    private readonly TaskCompletionSource<LaunchOutcome> failure = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private Task watch = Task.CompletedTask;
    private volatile bool finished;

    private NodeRendezvous(LaunchOptions options, TcpStoreServer? server, Store store, string jobId, DnsEndPoint endpoint)
    {
        this.options = options;
        silenceLimit = TimeSpan.FromSeconds(Math.Clamp(options.Timeout.TotalSeconds, ShortestSilence.TotalSeconds, LongestSilence.TotalSeconds));
        this.server = server;
        this.store = store;
        JobId = jobId;
        Endpoint = endpoint;
    }

    /// <summary>The job's name, the same on all nodes.</summary>
    public string JobId { get; }

    /// <summary>Where this node's workers find the store.</summary>
    public DnsEndPoint Endpoint { get; }

    /// <summary>Done when another node failed or was lost.</summary>
    public Task<LaunchOutcome> Failure => failure.Task;

    /// <exception cref="LaunchException">The port is in use, node 0 was not reached in time, or the nodes disagree.</exception>
    public static async Task<NodeRendezvous> JoinAsync(
        LaunchOptions options, JobSecret secret, string jobId, CancellationToken cancellationToken)
    {
        var server = options.NodeRank == 0 ? await HostAsync(options, secret, cancellationToken).ConfigureAwait(false) : null;
        var endpoint = server is null
            ? new DnsEndPoint(options.RendezvousHost!, options.RendezvousPort)
            : new DnsEndPoint(server.Endpoint.Address.ToString(), server.Endpoint.Port);
        if (options.Nodes == 1) return new NodeRendezvous(options, server, server!.Store, jobId, endpoint);

        Store? store = null;
        try
        {
            store = server?.Store ?? await TcpStore.ConnectAsync(
                endpoint.Host, endpoint.Port, secret, options.Timeout, cancellationToken).ConfigureAwait(false);
            jobId = await AgreeAsync(store, options, jobId, cancellationToken).ConfigureAwait(false);
            var joined = new NodeRendezvous(options, server, store, jobId, endpoint);
            joined.watch = joined.WatchAsync();
            return joined;
        }
        catch (Exception error)
        {
            if (server is not null) await server.DisposeAsync().ConfigureAwait(false);
            else if (store is not null) await store.DisposeAsync().ConfigureAwait(false);
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
        var key = $"launcher/{name}";
        if (value is not null) await store.SetAsync(key, Encoding.UTF8.GetBytes(value), cancellationToken).ConfigureAwait(false);
        return value ?? Encoding.UTF8.GetString(await store.GetAsync(key, options.Timeout, cancellationToken).ConfigureAwait(false));
    }

    /// <summary>Whether that rank has joined the job; true as well where the ranks meet through Redis, where it cannot be known.</summary>
    public async Task<bool> HasJoinedAsync(int rank)
    {
        if (Environment.GetEnvironmentVariable("SKEIN_REDIS_STORE") is { Length: > 0 }) return true;
        try
        {
            return await Roster.HasJoinedAsync(store, JobId, rank).ConfigureAwait(false);
        }
        catch (Exception error) when (error is SkeinException or ObjectDisposedException)
        {
            return false;
        }
    }

    /// <summary>Lets those who wait for a rank that ended before it joined hear of it. Does not wait for the store.</summary>
    public void ReportGone(int rank, string how) => _ = AttemptAsync(Roster.ReportGoneAsync(store, JobId, rank, how));

    /// <summary>
    /// Waits until every node has finished; on node 0 also until the others know, since the store ends with it. Never
    /// ends when another node fails: <see cref="Failure"/> then does.
    /// </summary>
    public async Task FinishAsync()
    {
        if (options.Nodes == 1) return;
        try
        {
            await MeetAsync("finished", patience: null, closing.Token).ConfigureAwait(false);
        }
        catch (SkeinException error)
        {
            Fail(1, LostNode0(error));
            await Task.Delay(Timeout.InfiniteTimeSpan, closing.Token).ConfigureAwait(false);
        }

        // The job has succeeded: that the store goes away from here on is no news.
        finished = true;
        using var limit = CancellationTokenSource.CreateLinkedTokenSource(closing.Token);
        limit.CancelAfter(silenceLimit);
        await AttemptAsync(
            options.NodeRank == 0 ? MeetAsync("informed", silenceLimit, limit.Token) : ArriveAsync("informed", limit.Token)).ConfigureAwait(false);
    }

    /// <summary>
    /// Tells the other nodes that this one failed or was interrupted, and gives them a moment to hear of it before node 0
    /// takes the store away. Takes three seconds at most, whatever the state of the store.
    /// </summary>
    public async Task LeaveAsync(LaunchOutcome outcome)
    {
        if (options.Nodes == 1) return;
        using var limit = CancellationTokenSource.CreateLinkedTokenSource(closing.Token);
        limit.CancelAfter(ToLeave);
        if (!failure.Task.IsCompleted)
        {
            var text = Encoding.UTF8.GetBytes($"{outcome.ExitCode} node {options.NodeRank}: {outcome.Failure}");
            await AttemptAsync(store.CompareAndSetAsync("launcher/failure", null, text, limit.Token)).ConfigureAwait(false);
        }

        await AttemptAsync(MeetAsync("left", ToLeave, limit.Token)).ConfigureAwait(false);
    }

    public async ValueTask DisposeAsync()
    {
        await closing.CancelAsync().ConfigureAwait(false);
        await watch.ConfigureAwait(false);
        if (server is null) await store.DisposeAsync().ConfigureAwait(false);
        else await server.DisposeAsync().ConfigureAwait(false);
    }

    private static async Task<TcpStoreServer> HostAsync(LaunchOptions options, JobSecret secret, CancellationToken cancellationToken)
    {
        try
        {
            var here = await ListenAddress.FindAsync(
                options.RendezvousHost ?? "127.0.0.1", options.Nodes == 1, "--rendezvous", cancellationToken).ConfigureAwait(false);
            return TcpStoreServer.Start(new IPEndPoint(here.Address, options.RendezvousPort), secret, options.Logger);
        }
        catch (RendezvousException error)
        {
            throw new LaunchException(error.Message, error);
        }
    }

    // Ranks are numbered node by node, so all nodes must have been given the same numbers.
    private static async Task<string> AgreeAsync(Store store, LaunchOptions options, string jobId, CancellationToken cancellationToken)
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

    private async Task ArriveAsync(string where, CancellationToken cancellationToken)
    {
        if (await store.AddAsync($"launcher/{where}", 1, cancellationToken).ConfigureAwait(false) == options.Nodes)
        {
            await store.SetAsync($"launcher/all-{where}", Array.Empty<byte>(), cancellationToken).ConfigureAwait(false);
        }
    }

    // Waits until all nodes have come here too: for as long as it takes when patience is null, since a job may run for days.
    private async Task MeetAsync(string where, TimeSpan? patience, CancellationToken cancellationToken)
    {
        await ArriveAsync(where, cancellationToken).ConfigureAwait(false);
        while (true)
        {
            try
            {
                await store.GetAsync($"launcher/all-{where}", patience ?? Beat, cancellationToken).ConfigureAwait(false);
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
        while (!closing.IsCancellationRequested && !finished)
        {
            // Each round asks the store twice or more, so a round without an end is a store without an answer.
            using var round = CancellationTokenSource.CreateLinkedTokenSource(closing.Token);
            round.CancelAfter(silenceLimit + Beat);
            try
            {
                if (await ReadFailureAsync(round.Token).ConfigureAwait(false) is { } news)
                {
                    failure.TrySetResult(news);
                    return;
                }

                if (await FindSilentAsync(beats, heard, round.Token).ConfigureAwait(false) is { } silent)
                {
                    Fail(1, $"the launcher of node {silent} has been silent for {silenceLimit.TotalSeconds:0} s");
                    return;
                }
            }
            catch (OperationCanceledException)
            {
                if (closing.IsCancellationRequested) return;
                Fail(1, $"{LostNode0()}: its store has not answered for {silenceLimit.TotalSeconds:0} s; that process hangs, or the network lost it");
                return;
            }
            catch (SkeinException error)
            {
                Fail(1, LostNode0(error));
                return;
            }
        }
    }

    private async Task<LaunchOutcome?> ReadFailureAsync(CancellationToken cancellationToken)
    {
        try
        {
            var text = Encoding.UTF8.GetString(await store.GetAsync("launcher/failure", Beat, cancellationToken).ConfigureAwait(false));
            var space = text.IndexOf(' ', StringComparison.Ordinal);
            return new LaunchOutcome(int.Parse(text[..space], CultureInfo.InvariantCulture), null, text[(space + 1)..]);
        }
        catch (CollectiveTimeoutException)
        {
            // No news, or no answer: the beat that follows tells them apart.
            return null;
        }
    }

    // Says that this node lives, and listens for the others.
    private async Task<int?> FindSilentAsync(long[] beats, long[] heard, CancellationToken cancellationToken)
    {
        await store.AddAsync($"launcher/beat/{options.NodeRank}", 1, cancellationToken).ConfigureAwait(false);
        for (var node = 0; node < beats.Length; node++)
        {
            var beat = await store.AddAsync($"launcher/beat/{node}", 0, cancellationToken).ConfigureAwait(false);
            if (beat != beats[node]) (beats[node], heard[node]) = (beat, Environment.TickCount64);
            // A node that never came is the workers' rendezvous to report, after the job's own timeout.
            if (beat > 0 && Environment.TickCount64 - heard[node] > silenceLimit.TotalMilliseconds) return node;
        }

        return null;
    }

    private string LostNode0() => $"lost the launcher of node 0 at {Endpoint.Host}:{Endpoint.Port}";

    private string LostNode0(SkeinException error) => $"{LostNode0()}: {error.Message}";

    private void Fail(int exitCode, string what)
    {
        if (!finished) failure.TrySetResult(new LaunchOutcome(exitCode, null, what));
    }

    // News of the end is sent on a best effort: a store that is gone says as much to those who wait for it.
    private static async Task AttemptAsync(Task action)
    {
        try
        {
            await action.ConfigureAwait(false);
        }
        catch (Exception error) when (error is SkeinException or OperationCanceledException or ObjectDisposedException)
        {
        }
    }
}

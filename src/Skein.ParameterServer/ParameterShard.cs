using System.Collections.Concurrent;
using System.Net;
using System.Net.Sockets;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;
using Skein.Collectives;
using Skein.Collectives.Rendezvous;
using Skein.ParameterServer.Control;
using Skein.ParameterServer.Shards;
using Skein.ParameterServer.Wire;

namespace Skein.ParameterServer;

/// <summary>Where a server listens and whom it registers with. Immutable.</summary>
public sealed record ParameterShardOptions
{
    /// <summary>The coordinator's host.</summary>
    public required string CoordinatorHost { get; init; }

    /// <summary>The coordinator's port.</summary>
    public required int CoordinatorPort { get; init; }

    /// <summary>The job's secret.</summary>
    public required JobSecret Secret { get; init; }

    /// <summary>Where to listen; workers are told this address. Default: loopback.</summary>
    public IPAddress Address { get; init; } = IPAddress.Loopback;

    /// <summary>The longest wait for the coordinator and for the other servers.</summary>
    public TimeSpan Timeout { get; init; } = TimeSpan.FromSeconds(300);

    /// <summary>Where to log; null for nowhere.</summary>
    public ILogger? Logger { get; init; }
}

/// <summary>
/// A server process's part of the parameters: the primary or the backup of one shard, as the coordinator decides. One
/// thread owns all state and takes one message after the other; streams have threads of their own.
/// </summary>
public sealed class ParameterShard : IAsyncDisposable
{
    private static readonly TimeSpan TickInterval = TimeSpan.FromMilliseconds(250);
    private static readonly TimeSpan ToStop = TimeSpan.FromSeconds(2);
    private static readonly TimeSpan Forever = TimeSpan.FromDays(40);

    private readonly ParameterShardOptions options;
    private readonly ILogger logger;
    private readonly BlockingCollection<Action> mailbox = [];
    private readonly List<ShardRequest> parked = [];
    private readonly List<ShardConnection> connections = [];
    private readonly HashSet<int> seenWorkers = [];
    private readonly TaskCompletionSource ended = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly CancellationTokenSource stopping = new();
    private Thread? loop;
    private AuthenticatedListener? listener;
    private CoordinatorClient? coordinator;
    private ShardProtocol? protocol;
    private JobView view = new();
    private ShardView? shard;
    private JobSettings? settings;
    private int? replicaOf;
    private bool serving;
    private long closedReceived, closedSent;

    /// <summary>A server that has not joined its job yet.</summary>
    public ParameterShard(ParameterShardOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        this.options = options;
        logger = options.Logger ?? NullLogger.Instance;
    }

    /// <summary>Ends well when the job has; fails with the job's failure.</summary>
    public Task Completion => ended.Task;

    /// <summary>What the job's members ask of this server, by <see cref="ShardControlClient"/>.</summary>
    public ControlService Service => new ShardControl(Statistics, SaveCheckpointAsync).Service;

    /// <summary>Starts to listen for workers, and registers with the coordinator; to be called once.</summary>
    /// <param name="controlPort">Where, at <see cref="ParameterShardOptions.Address"/>, <see cref="Service"/> is served.</param>
    /// <param name="cancellationToken">Gives up.</param>
    /// <exception cref="RendezvousException">The coordinator was not reached, or the address cannot be listened at.</exception>
    /// <exception cref="ParameterServerException">The coordinator refused, or the job has failed.</exception>
    public async Task JoinAsync(int controlPort, CancellationToken cancellationToken = default)
    {
        listener = AuthenticatedListener.Start(new IPEndPoint(options.Address, 0), options.Secret, logger);
        var registration = new ServerRegistration(options.Address.ToString(), listener.Endpoint.Port, controlPort);
        coordinator = await CoordinatorClient.JoinAsync(
            options.CoordinatorHost, options.CoordinatorPort, options.Secret, registration, options.Timeout, cancellationToken)
            .ConfigureAwait(false);
        loop = new Thread(Run) { IsBackground = true, Name = "shard" };
        loop.Start();
        listener.Register(ConnectionPurpose.Data, AcceptAsync);
        _ = FollowAsync(coordinator);
    }

    /// <summary>Stops serving and frees the shard's memory.</summary>
    public async ValueTask DisposeAsync()
    {
        await stopping.CancelAsync().ConfigureAwait(false);
        mailbox.CompleteAdding();
        if (loop is not null) await Task.Run(() => loop.Join(ToStop)).ConfigureAwait(false);
        if (listener is not null) await listener.DisposeAsync().ConfigureAwait(false);
        if (coordinator is not null) await coordinator.DisposeAsync().ConfigureAwait(false);
    }

    private async Task FollowAsync(CoordinatorClient from)
    {
        JobView? last = null;
        try
        {
            do
            {
                JobView? before = last;
                last = await from.WaitForAsync(next => next != before, "a change", Forever, stopping.Token).ConfigureAwait(false);
                JobView now = last;
                Post(() => Follow(now));
            }
            while (!last.HasEnded);
        }
        catch (ParameterServerException error)
        {
            ended.TrySetException(error);
        }
        catch (OperationCanceledException)
        {
            ended.TrySetResult();
        }
    }

    private Task AcceptAsync(Socket socket, ReadOnlyMemory<byte> hello)
    {
        PeerHello peer = PeerHello.Parse(hello.Span);

        // A primary forwards for all workers at once, and one worker's gradients may wait for another's.
        int pushes = peer.Worker == PeerHello.Primary ? int.MaxValue : 2;
        Post(() => connections.Add(new ShardConnection(new DataConnection(socket), peer, pushes, request => Post(() => Handle(request)), connection => Post(() => Closed(connection)))));
        return Task.CompletedTask;
    }

    /// <returns>False when the shard has stopped.</returns>
    private bool Post(Action action)
    {
        try
        {
            mailbox.Add(action);
            return true;
        }
        catch (InvalidOperationException)
        {
            return false;
        }
    }

    private void Run()
    {
        try
        {
            while (!mailbox.IsCompleted)
            {
                if (mailbox.TryTake(out Action? action, TickInterval)) action();
                protocol?.ExpirePulls();
            }
        }
        catch (Exception error)
        {
            logger.LogError(error, "The shard failed");
            _ = coordinator!.FailAsync(error.Message);
            ended.TrySetException(error is ParameterServerException ? error : new ParameterServerException(error.Message, error));
        }
        finally
        {
            mailbox.CompleteAdding();
            protocol?.Replica?.Dispose();
            foreach (ShardConnection connection in connections) connection.Dispose();

            // Memory that a stream's thread may still read stays until the process ends.
            if (connections.TrueForAll(static connection => connection.Join(ToStop))) protocol?.Dispose();
        }
    }

    private void Follow(JobView next)
    {
        view = next;
        if (next.Finished)
        {
            ended.TrySetResult();
            return;
        }

        if (next.Shards.FirstOrDefault(IsMine) is not { } mine)
        {
            // Superseded: another server holds this shard now.
            if (shard is not null) ended.TrySetException(new ParameterServerException($"server {coordinator!.Id} no longer holds shard {shard.Index}; its backup took over"));
            return;
        }

        shard = mine;
        settings ??= JobSettings.Parse(next.Settings);
        protocol ??= new ShardProtocol(settings, mine.Index);
        foreach (int gone in seenWorkers.Except(next.Workers).ToArray())
        {
            seenWorkers.Remove(gone);
            protocol.Remove(gone);
        }

        seenWorkers.UnionWith(next.Workers);
        FollowReplica(mine);
        Resume();
    }

    private void FollowReplica(ShardView mine)
    {
        if (mine.Primary.Id != coordinator!.Id)
        {
            serving = false;
            return;
        }

        if (mine.Backup is not { } backup)
        {
            protocol!.Replica?.Dispose();
            protocol.Replica = null;
            replicaOf = null;
            serving = view.Ready;
        }
        else if (replicaOf is null && view.Ready)
        {
            replicaOf = backup.Id;
            _ = ConnectReplicaAsync(backup, mine.Generation);
        }
    }

    private async Task ConnectReplicaAsync(ServerView backup, long generation)
    {
        try
        {
            Socket socket = await AuthenticatedConnection.ConnectAsync(
                backup.Host, backup.DataPort, options.Secret, ConnectionPurpose.Data, new PeerHello(PeerHello.Primary, generation).ToBytes(),
                options.Timeout, stopping.Token).ConfigureAwait(false);
            Post(() =>
            {
                ReplicaLink? link = null;
                link = new ReplicaLink(new DataConnection(socket), () => protocol!.Layout, sequence => Post(() => Replicated(link!, sequence)), LostReplica);
                protocol!.Replica = link;
                serving = true;
                Resume();
            });
        }
        catch (Exception error) when (error is RendezvousException or OperationCanceledException)
        {
            // The coordinator notices too, and says who goes on.
            LostReplica(error.Message);
        }

        void LostReplica(string reason) => logger.LogWarning("Shard {Shard}: the backup is not reached: {Reason}", shard?.Index, reason);
    }

    private void Replicated(ReplicaLink link, long sequence)
    {
        if (protocol!.Replica == link) protocol.Replicated(sequence);
    }

    private void Resume()
    {
        ShardRequest[] waiting = [.. parked];
        parked.Clear();
        foreach (ShardRequest request in waiting) Handle(request);
    }

    private void Handle(ShardRequest request)
    {
        long asked = request.Peer.Hello.Generation;
        if (shard is not null && asked < shard.Generation)
        {
            request.Push?.Release();
            request.Peer.Refuse(
                request.Header,
                $"server shard {shard.Index} is of generation {shard.Generation}, but was asked as one of generation {asked}: it was replaced or restarted meanwhile",
                MessageKind.Superseded);
            return;
        }

        bool ready = request.Peer.FromPrimary ? protocol is not null : serving && asked == shard!.Generation;
        if (ready) protocol!.Process(request);
        else parked.Add(request);
    }

    private void Closed(ShardConnection connection)
    {
        connections.Remove(connection);
        closedReceived += connection.BytesReceived;
        closedSent += connection.BytesSent;
        foreach (ShardRequest request in parked.Where(request => request.Peer == connection)) request.Push?.Release();
        parked.RemoveAll(request => request.Peer == connection);
        protocol?.Forget(connection);
        connection.Dispose();
    }

    private bool IsMine(ShardView candidate) => candidate.Primary.Id == coordinator!.Id || candidate.Backup?.Id == coordinator.Id;

    private ShardStatistics Statistics() => Ask(() => protocol!.Statistics(
        shard!.Generation,
        closedReceived + connections.Sum(static connection => connection.BytesReceived),
        closedSent + connections.Sum(static connection => connection.BytesSent))).GetAwaiter().GetResult();

    private Task<string> SaveCheckpointAsync(CancellationToken cancellationToken) => Ask(() => protocol!.SaveCheckpoint()).WaitAsync(cancellationToken);

    private Task<T> Ask<T>(Func<T> question)
    {
        var answer = new TaskCompletionSource<T>(TaskCreationOptions.RunContinuationsAsynchronously);
        bool asked = Post(() =>
        {
            try
            {
                answer.SetResult(question());
            }
            catch (Exception error)
            {
                answer.SetException(error);
            }
        });
        return asked ? answer.Task : Task.FromException<T>(new InvalidOperationException("the shard has stopped"));
    }
}

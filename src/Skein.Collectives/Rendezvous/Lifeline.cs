using System.Diagnostics;
using System.Net.Sockets;

namespace Skein.Collectives.Rendezvous;

/// <summary>
/// Liveness and failure propagation of one job: a star through rank 0. A connection that ends without a goodbye is a
/// lost rank; a loss or a reported failure reaches every rank at once. Thread-safe.
/// </summary>
internal sealed class Lifeline : IAsyncDisposable
{
    // More than the hub takes to ask everybody who runs.
    private static readonly TimeSpan VerdictLimit = TimeSpan.FromSeconds(2);

    private readonly int rank;
    private readonly LifelineHub? hub;
    private readonly FrameConnection? uplink;
    private readonly Lock gate = new();
    private readonly PeerState[] states;
    private TaskCompletionSource change = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private volatile JobFailure? failure;
    private volatile bool disposed;

    private Lifeline(int rank, int worldSize, FrameConnection? uplink)
    {
        this.rank = rank;
        this.uplink = uplink;
        states = new PeerState[worldSize];
        if (uplink is null) hub = new LifelineHub(worldSize, Apply);
    }

    /// <summary>Raised on a thread of the pool when <see cref="Failure"/> or the state of a rank has changed.</summary>
    public event Action? Changed;

    /// <summary>The first failure that is known here; null while there is none.</summary>
    public JobFailure? Failure => failure;

    /// <summary>On rank 0: what each rank last reported to wait in. Empty on the others.</summary>
    public IReadOnlyList<(int Rank, WaitReport? Last)> LastReports => hub?.LastReports ?? [];

    /// <summary>Rank 0's lifeline, which the others connect to through <paramref name="listener"/>.</summary>
    public static Lifeline Host(AuthenticatedListener listener, int worldSize)
    {
        var lifeline = new Lifeline(0, worldSize, uplink: null);
        listener.Register(ConnectionPurpose.Lifeline, lifeline.hub!.ServeAsync);
        return lifeline;
    }

    /// <summary>The lifeline of rank 1 and above.</summary>
    /// <exception cref="RendezvousException">Rank 0 was not reached in time, or it has no place for this rank.</exception>
    /// <exception cref="JobAuthenticationException">The secrets differ.</exception>
    public static async Task<Lifeline> ConnectAsync(
        string host, int port, int rank, int worldSize, JobSecret secret, TimeSpan timeout, CancellationToken cancellationToken = default)
    {
        Socket socket;
        try
        {
            socket = await AuthenticatedConnection.ConnectAsync(
                host, port, secret, ConnectionPurpose.Lifeline, LifelineHub.Hello(rank, worldSize), timeout, cancellationToken).ConfigureAwait(false);
        }
        catch (RendezvousException error)
        {
            throw new RendezvousException($"rank {rank} waited for rank 0 to admit it to the job: {error.Message}", error);
        }

        var uplink = new FrameConnection(socket, LifelineMessage.MaximumLength);
        try
        {
            byte[]? content = await uplink.ReceiveAsync(cancellationToken).WaitAsync(timeout, cancellationToken).ConfigureAwait(false);
            switch (content is null ? null : LifelineMessage.Decode(content, worldSize))
            {
                case LifelineMessage.Welcome:
                    var lifeline = new Lifeline(rank, worldSize, uplink);
                    _ = Task.Run(lifeline.ReceiveAsync, CancellationToken.None);
                    return lifeline;
                case LifelineMessage.Rejected rejected:
                    throw new RendezvousException(rejected.Reason);
                default:
                    throw new RendezvousException(
                        $"rank 0 at {AuthenticatedConnection.Name(host, port)} closed the connection of rank {rank} before the job began; see its output");
            }
        }
        catch (Exception error)
        {
            await uplink.DisposeAsync().ConfigureAwait(false);
            if (error is not (TimeoutException or InvalidDataException)) throw;
            throw new RendezvousException(
                $"rank 0 at {AuthenticatedConnection.Name(host, port)} did not welcome rank {rank} within {timeout.TotalSeconds:0.###} s: {error.Message}", error);
        }
    }

    /// <summary>What is known here of <paramref name="peer"/>.</summary>
    public PeerState StateOf(int peer)
    {
        lock (gate) return states[peer];
    }

    /// <summary>
    /// Ends the job on every rank with this timeout, unless it has failed already. Who waits may wait for one who waits
    /// himself, so the hub first asks everybody and adds who does not answer; blocks for at most two seconds.
    /// </summary>
    /// <returns>What ended the job.</returns>
    public JobFailure ReportTimeout(string message)
    {
        using var changed = new ManualResetEventSlim();
        Changed += changed.Set;
        var own = new JobFailure(FailureKind.Timeout, rank, message);
        Send(new LifelineMessage.Failed(own));
        long start = Stopwatch.GetTimestamp();
        while (failure is null && VerdictLimit - Stopwatch.GetElapsedTime(start) is var rest && rest > TimeSpan.Zero)
        {
            changed.Wait(rest);
            changed.Reset();
        }

        Changed -= changed.Set;
        Apply(new LifelineMessage.Failed(own with { Message = $"{message}; rank 0 does not answer: it is frozen, or its host is lost" }));
        return failure!;
    }

    /// <summary>Ends the job on every rank with this message, unless it has failed already. Never blocks.</summary>
    public void ReportFailure(FailureKind kind, string message)
    {
        var failed = new LifelineMessage.Failed(new JobFailure(kind, rank, message));
        if (hub is null) Apply(failed);
        Send(failed);
    }

    /// <summary>
    /// Tells the hub where this rank waits. Two ranks that wait in the same call of the same group with different
    /// signatures end the job with a mismatch that names both. Never blocks.
    /// </summary>
    public void ReportWaiting(WaitReport report)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(report.Signature.Length, WaitReport.MaximumSignatureLength);
        Send(new LifelineMessage.Waiting(report));
    }

    /// <summary>
    /// Says goodbye, so that the end of this rank is no loss. Rank 0 then waits until every other rank has left or is
    /// lost, since all of them depend on it; the others until rank 0 has heard them.
    /// </summary>
    /// <exception cref="CollectiveTimeoutException">Names the ranks that did not say goodbye in time.</exception>
    public async Task LeaveAsync(TimeSpan timeout)
    {
        Send(new LifelineMessage.Goodbye());
        using var limit = new CancellationTokenSource(timeout);
        while (true)
        {
            Task next;
            int[] awaited;
            lock (gate)
            {
                next = change.Task;
                awaited = hub is not null
                    ? [.. Enumerable.Range(0, states.Length).Where(peer => states[peer] == PeerState.Alive)]
                    : states[rank] == PeerState.Alive && states[0] != PeerState.Lost ? [0] : [];
            }

            if (awaited.Length == 0) return;
            try
            {
                await next.WaitAsync(limit.Token).ConfigureAwait(false);
            }
            catch (OperationCanceledException)
            {
                throw new CollectiveTimeoutException(hub is not null
                    ? $"rank 0 waited {timeout.TotalSeconds:0.###} s at the end of the job for the goodbye of rank {string.Join(", ", awaited)}"
                    : $"rank {rank} waited {timeout.TotalSeconds:0.###} s at the end of the job for rank 0 to answer its goodbye");
            }
        }
    }

    /// <summary>Sends what was reported, for at most a second, and closes. Without <see cref="LeaveAsync"/> before, this rank is lost to the others.</summary>
    public async ValueTask DisposeAsync()
    {
        disposed = true;
        if (hub is not null) await hub.DisposeAsync().ConfigureAwait(false);
        if (uplink is not null) await uplink.DisposeAsync().ConfigureAwait(false);
    }

    private void Send(LifelineMessage message)
    {
        if (hub is not null) hub.Receive(rank, message);
        else _ = uplink!.SendAsync(message.Encode());
    }

    private async Task ReceiveAsync()
    {
        string reason = "its connection closed (the process died or was killed)";
        try
        {
            while (await uplink!.ReceiveAsync().ConfigureAwait(false) is { } content)
            {
                LifelineMessage message = LifelineMessage.Decode(content, states.Length);
                if (message is LifelineMessage.Ping) Send(new LifelineMessage.Pong());
                else Apply(message);
            }
        }
        catch (InvalidDataException error)
        {
            reason = $"it sent a malformed message: {error.Message}";
        }

        if (disposed || StateOf(rank) == PeerState.Left) return;
        Apply(new LifelineMessage.StateChanged(0, PeerState.Lost));
        Apply(new LifelineMessage.Failed(new JobFailure(FailureKind.PeerLost, 0, $"rank 0 was lost: {reason}")));
    }

    private void Apply(LifelineMessage message)
    {
        lock (gate)
        {
            switch (message)
            {
                case LifelineMessage.StateChanged changed:
                    states[changed.Rank] = changed.State;
                    break;
                case LifelineMessage.Failed { Failure: var first } when failure is null:
                    failure = first;
                    break;
                default:
                    return;
            }

            change.SetResult();
            change = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        }

        ThreadPool.UnsafeQueueUserWorkItem(static lifeline => lifeline.Changed?.Invoke(), this, preferLocal: false);
    }
}

using System.Diagnostics;
using Google.Protobuf;
using Grpc.Core;
using Grpc.Net.Client;
using Skein.Collectives;
using Skein.Collectives.Rendezvous;

namespace Skein.ParameterServer.Control;

/// <summary>
/// A member's connection to its job's <see cref="Coordinator"/>: says each second that the process lives, and learns
/// of every change. Disposed without having left, the member is lost. Thread-safe.
/// </summary>
public sealed partial class CoordinatorClient : IAsyncDisposable
{
    /// <summary>The environment variable that names a job's coordinator, as HOST:PORT.</summary>
    public const string AddressVariable = "SKEIN_COORDINATOR";

    private static readonly TimeSpan HeartbeatPeriod = TimeSpan.FromSeconds(1);

    // How long a member that leaves or fails waits until the coordinator has heard it.
    private static readonly TimeSpan GoodbyeTimeout = TimeSpan.FromSeconds(5);

    private readonly string address;
    private readonly GrpcChannel channel;
    private readonly Protocol.Coordination.CoordinationClient calls;
    private readonly AsyncDuplexStreamingCall<Protocol.MemberMessage, Protocol.JobView> stream;
    private readonly CancellationTokenSource lifetime;
    private readonly CancellationTokenSource ended = new();
    private readonly SemaphoreSlim writing = new(1);
    private readonly Lock gate = new();
    private readonly Task receiving;
    private readonly Task beating;
    private TaskCompletionSource changed = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private volatile JobView view;
    private volatile bool leaving;

    private CoordinatorClient(
        string address, GrpcChannel channel, Protocol.Coordination.CoordinationClient calls,
        AsyncDuplexStreamingCall<Protocol.MemberMessage, Protocol.JobView> stream, CancellationTokenSource lifetime)
    {
        this.address = address;
        this.channel = channel;
        this.calls = calls;
        this.stream = stream;
        this.lifetime = lifetime;
        Id = stream.ResponseStream.Current.Member;
        view = Messages.FromMessage(stream.ResponseStream.Current);
        JobEnded = ended.Token;
        if (view.HasEnded) ended.Cancel();
        receiving = Task.Run(ReceiveAsync);
        beating = Task.Run(BeatAsync);
    }

    /// <summary>This member's id: a worker's rank, or a server's number in the order of registration.</summary>
    public int Id { get; }

    /// <summary>The job as the coordinator last told it.</summary>
    public JobView View => view;

    /// <summary>Is cancelled when the job has finished or failed, or its coordinator is lost; <see cref="View"/> says which.</summary>
    public CancellationToken JobEnded { get; }

    /// <summary>Registers this process with its job's coordinator, which may start later.</summary>
    /// <param name="host">The coordinator's host.</param>
    /// <param name="port">Its port.</param>
    /// <param name="secret">The job's secret.</param>
    /// <param name="registration">What this process is to the job.</param>
    /// <param name="timeout">How long to wait for the coordinator.</param>
    /// <param name="cancellationToken">Gives up.</param>
    /// <exception cref="JobAuthenticationException">The secrets differ.</exception>
    /// <exception cref="RendezvousException">The coordinator was not reached in time.</exception>
    /// <exception cref="ParameterServerException">The job has no place for this process, or has ended.</exception>
    public static async Task<CoordinatorClient> JoinAsync(
        string host, int port, JobSecret secret, Registration registration, TimeSpan timeout, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(secret);
        ArgumentNullException.ThrowIfNull(registration);
        string address = AuthenticatedConnection.Name(host, port);
        GrpcChannel channel = ControlChannel.Open(host, port, secret, timeout);
        var lifetime = new CancellationTokenSource();
        try
        {
            var calls = new Protocol.Coordination.CoordinationClient(channel);
            var stream = calls.Join(cancellationToken: lifetime.Token);

            // Connecting has its own limit, so that this one only counts when the coordinator accepts but says nothing.
            using var limit = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
            limit.CancelAfter(timeout + Handshake.DefaultTimeout);
            await using (limit.Token.Register(lifetime.Cancel).ConfigureAwait(false))
            {
                try
                {
                    var register = new Protocol.MemberMessage { Register = Messages.ToMessage(registration) };
                    await stream.RequestStream.WriteAsync(register, CancellationToken.None).ConfigureAwait(false);
                }
                catch (RpcException)
                {
                    // Reading says why.
                }

                if (!await stream.ResponseStream.MoveNext(CancellationToken.None).ConfigureAwait(false))
                {
                    throw new ParameterServerException($"the coordinator at {address} ended the registration without an answer");
                }
            }

            return new CoordinatorClient(address, channel, calls, stream, lifetime);
        }
        catch (Exception error)
        {
            channel.Dispose();
            lifetime.Dispose();
            if (error is not RpcException failed) throw;
            cancellationToken.ThrowIfCancellationRequested();
            if (failed.StatusCode == StatusCode.Cancelled)
            {
                throw new RendezvousException($"waited {timeout.TotalSeconds:0.###} s for the coordinator at {address} to answer the registration", failed);
            }

            throw ControlChannel.Explain(failed, $"the coordinator at {address} could not be reached: {failed.Status.Detail}");
        }
    }

    /// <summary>Tells a job's coordinator, for whoever started it, that a process is gone.</summary>
    /// <param name="host">The coordinator's host.</param>
    /// <param name="port">Its port.</param>
    /// <param name="secret">The job's secret.</param>
    /// <param name="departure">Which process, and how.</param>
    /// <param name="timeout">How long to try.</param>
    /// <param name="cancellationToken">Gives up.</param>
    /// <exception cref="SkeinException">The coordinator was not reached in time.</exception>
    public static async Task ReportAsync(
        string host, int port, JobSecret secret, Departure departure, TimeSpan timeout, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(secret);
        ArgumentNullException.ThrowIfNull(departure);
        using GrpcChannel channel = ControlChannel.Open(host, port, secret, timeout);
        try
        {
            await new Protocol.Coordination.CoordinationClient(channel).DepartAsync(
                Messages.ToMessage(departure), deadline: DateTime.UtcNow + timeout, cancellationToken: cancellationToken)
                .ConfigureAwait(false);
        }
        catch (RpcException error)
        {
            cancellationToken.ThrowIfCancellationRequested();
            string address = AuthenticatedConnection.Name(host, port);
            throw ControlChannel.Explain(error, $"the coordinator at {address} could not be reached: {error.Status.Detail}");
        }
    }

    /// <summary>Waits until the job is as <paramref name="condition"/> asks.</summary>
    /// <param name="condition">Is asked after every change.</param>
    /// <param name="what">What is waited for, for the message when it does not come: "this member waited 5 s for …".</param>
    /// <param name="timeout">How long to wait.</param>
    /// <param name="cancellationToken">Gives up.</param>
    /// <exception cref="ParameterServerException">The job failed, or the wait ran out.</exception>
    public async Task<JobView> WaitForAsync(
        Func<JobView, bool> condition, string what, TimeSpan timeout, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(condition);
        long started = Stopwatch.GetTimestamp();
        while (true)
        {
            Task change;
            JobView current;
            lock (gate)
            {
                change = changed.Task;
                current = view;
            }

            if (current.Failure is { } failure) throw new ParameterServerException(failure);
            if (condition(current)) return current;
            if (current.Finished) throw new ParameterServerException($"the job finished while a member waited for {what}");
            TimeSpan left = timeout - Stopwatch.GetElapsedTime(started);
            try
            {
                await change.WaitAsync(left > TimeSpan.Zero ? left : TimeSpan.Zero, cancellationToken).ConfigureAwait(false);
            }
            catch (TimeoutException error)
            {
                throw new ParameterServerException($"waited {timeout.TotalSeconds:0.###} s for {what}; see the other members' logs, or raise SKEIN_TIMEOUT_SECONDS", error);
            }
        }
    }

    /// <summary>Adds up what every worker contributes under one name, and waits for all of them. Workers only.</summary>
    /// <exception cref="ParameterServerException">The job failed, the workers disagree, or one did not contribute in time.</exception>
    public async Task<SumResult> SumAsync(string name, ReadOnlyMemory<double> values, CancellationToken cancellationToken = default)
    {
        var request = new Protocol.SumRequest { Name = name, Worker = Id };
        foreach (double value in values.Span) request.Values.Add(value);
        Protocol.SumReply reply = await CallAsync(
            token => calls.SumAsync(request, cancellationToken: token), cancellationToken).ConfigureAwait(false);
        return new SumResult([.. reply.Sums], [.. reply.Workers]);
    }

    /// <summary>
    /// Reports a chunk as completed and takes the next one of the same epoch. While others hold the last ones it waits:
    /// they are handed out again when their holders are lost. Workers only.
    /// </summary>
    /// <param name="epoch">The epoch, which has its own chunks.</param>
    /// <param name="chunks">Into how many chunks an epoch's work is divided, the same for all workers.</param>
    /// <param name="completed">The chunk that was taken before; null at first.</param>
    /// <param name="cancellationToken">Gives up.</param>
    /// <returns>A chunk from 0 to <paramref name="chunks"/> - 1; null when all of the epoch are completed.</returns>
    /// <exception cref="ParameterServerException">The job failed, the workers disagree, or a held chunk was not completed in time.</exception>
    public async Task<int?> TakeWorkAsync(int epoch, int chunks, int? completed, CancellationToken cancellationToken = default)
    {
        var request = new Protocol.TakeWorkRequest { Worker = Id, Epoch = epoch, Chunks = chunks, Completed = completed ?? -1 };
        Protocol.TakeWorkReply reply = await CallAsync(
            token => calls.TakeWorkAsync(request, cancellationToken: token), cancellationToken).ConfigureAwait(false);
        return reply.HasChunk ? reply.Chunk : null;
    }

    /// <summary>Reports a chunk as completed by a worker that takes no more of this epoch. Workers only.</summary>
    /// <exception cref="ParameterServerException">The job failed, or the workers disagree.</exception>
    public Task CompleteWorkAsync(int epoch, int chunks, int completed, CancellationToken cancellationToken = default)
    {
        var request = new Protocol.TakeWorkRequest { Worker = Id, Epoch = epoch, Chunks = chunks, Completed = completed, Last = true };
        return CallAsync(token => calls.TakeWorkAsync(request, cancellationToken: token), cancellationToken);
    }

    /// <summary>Keeps a value at the coordinator until the job ends, for the other workers. Worker 0 only.</summary>
    /// <param name="name">Under which name; said again, it is replaced.</param>
    /// <param name="value">At most <see cref="ControlService.MaximumMessageLength"/> bytes, less some hundred for the name.</param>
    /// <param name="cancellationToken">Gives up.</param>
    /// <exception cref="ParameterServerException">The job failed, or this is another worker.</exception>
    public Task KeepAsync(string name, ReadOnlyMemory<byte> value, CancellationToken cancellationToken = default)
    {
        var request = new Protocol.KeepRequest { Worker = Id, Name = name, Value = ByteString.CopyFrom(value.Span) };
        return CallAsync(token => calls.KeepAsync(request, cancellationToken: token), cancellationToken);
    }

    /// <summary>Waits for what worker 0 keeps under that name.</summary>
    /// <exception cref="ParameterServerException">The job failed, or worker 0 did not say it in time.</exception>
    public async Task<ReadOnlyMemory<byte>> FetchAsync(string name, CancellationToken cancellationToken = default)
    {
        var request = new Protocol.FetchRequest { Worker = Id, Name = name };
        Protocol.FetchReply reply = await CallAsync(
            token => calls.FetchAsync(request, cancellationToken: token), cancellationToken).ConfigureAwait(false);
        return reply.Value.Memory;
    }

    /// <summary>Tells the coordinator that this member has finished well. Returns when it knows, or after 5 s.</summary>
    public async Task LeaveAsync()
    {
        leaving = true;
        if (!await SayAsync(new Protocol.MemberMessage { Leave = new Protocol.Leave() }).ConfigureAwait(false)) return;
        await Task.WhenAny(receiving, Task.Delay(GoodbyeTimeout)).ConfigureAwait(false);
    }

    /// <summary>Ends the job because this member cannot go on. Returns when the coordinator knows, or after 5 s.</summary>
    /// <param name="message">Why; everybody learns it, with this member's name.</param>
    public async Task FailAsync(string message)
    {
        if (!await SayAsync(new Protocol.MemberMessage { Failed = new Protocol.Failed { Message = message } }).ConfigureAwait(false)) return;
        var told = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        await using (JobEnded.Register(told.SetResult).ConfigureAwait(false))
        {
            await Task.WhenAny(told.Task, Task.Delay(GoodbyeTimeout)).ConfigureAwait(false);
        }
    }

    /// <summary>Closes the connection.</summary>
    public async ValueTask DisposeAsync()
    {
        if (lifetime.IsCancellationRequested) return;
        leaving = true;
        await lifetime.CancelAsync().ConfigureAwait(false);
        await Task.WhenAll(receiving, beating).ConfigureAwait(false);
        stream.Dispose();
        channel.Dispose();
        lifetime.Dispose();
        writing.Dispose();
    }
}

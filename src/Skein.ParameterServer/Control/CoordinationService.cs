using System.Threading.Channels;
using Google.Protobuf;
using Grpc.Core;

namespace Skein.ParameterServer.Control;

/// <summary>What members call at the coordinator. A refusal has the status FailedPrecondition and its reason as detail.</summary>
internal sealed class CoordinationService(CoordinatorState state) : Protocol.Coordination.CoordinationBase
{
    /// <summary>The metadata of a worker's call that holds its token.</summary>
    public const string TokenHeader = "skein-token-bin";

    // How long a connected process may take to say who it is.
    private static readonly TimeSpan RegistrationTimeout = TimeSpan.FromSeconds(10);

    public override async Task Join(
        IAsyncStreamReader<Protocol.MemberMessage> requestStream, IServerStreamWriter<Protocol.JobView> responseStream, ServerCallContext context)
    {
        Registration registration = await ReadRegistrationAsync(requestStream, context.CancellationToken).ConfigureAwait(false);
        (Member member, ChannelReader<JobView> views) = Guard(() => state.Register(registration));
        using var end = CancellationTokenSource.CreateLinkedTokenSource(context.CancellationToken);
        Task listening = ListenAsync(member, requestStream, end.Token);
        try
        {
            await foreach (JobView view in views.ReadAllAsync(end.Token).ConfigureAwait(false))
            {
                await responseStream.WriteAsync(Messages.ToMessage(view, member), end.Token).ConfigureAwait(false);
            }
        }
        catch (ParameterServerException lost)
        {
            throw Refusal(lost);
        }
        catch (Exception error) when (error is OperationCanceledException or IOException or InvalidOperationException)
        {
            // The connection is gone, which the listening side notices as well.
        }
        finally
        {
            await end.CancelAsync().ConfigureAwait(false);
            await listening.ConfigureAwait(false);
        }
    }

    public override Task<Protocol.SumReply> Sum(Protocol.SumRequest request, ServerCallContext context) => GuardAsync(async () =>
    {
        Identify(request.Worker, context);
        SumResult result = await state.SumAsync(
            request.Name, request.Worker, [.. request.Values], context.CancellationToken).ConfigureAwait(false);
        return new Protocol.SumReply { Sums = { result.Sums }, Workers = { result.Workers } };
    });

    public override Task<Protocol.TakeWorkReply> TakeWork(Protocol.TakeWorkRequest request, ServerCallContext context) => GuardAsync(async () =>
    {
        Identify(request.Worker, context);
        if (request.Chunks < 0) throw new ParameterServerException($"an epoch cannot have {request.Chunks} chunks");
        WorkItem item = await state.TakeWorkAsync(
            request.Worker, request.Epoch, request.Chunks, request.Completed, request.Last, context.CancellationToken).ConfigureAwait(false);
        var reply = new Protocol.TakeWorkReply();
        if (item.Chunk is { } chunk) reply.Chunk = chunk;
        return reply;
    });

    public override Task<Protocol.KeepReply> Keep(Protocol.KeepRequest request, ServerCallContext context) => Task.FromResult(Guard(() =>
    {
        Identify(request.Worker, context);
        state.Keep(request.Worker, request.Name, request.Value);
        return new Protocol.KeepReply();
    }));

    public override Task<Protocol.FetchReply> Fetch(Protocol.FetchRequest request, ServerCallContext context) => GuardAsync(async () =>
    {
        Identify(request.Worker, context);
        ByteString value = await state.FetchAsync(request.Worker, request.Name, context.CancellationToken).ConfigureAwait(false);
        return new Protocol.FetchReply { Value = value };
    });

    public override Task<Protocol.DepartReply> Depart(Protocol.DepartRequest request, ServerCallContext context)
    {
        Departure departure = Guard(() => Messages.FromMessage(request));
        state.Depart(departure);
        return Task.FromResult(new Protocol.DepartReply());
    }

    // Whoever has the job's secret could else act for any worker.
    private void Identify(int worker, ServerCallContext context)
    {
        byte[]? told = context.RequestHeaders.GetValueBytes(TokenHeader);
        state.Identify(worker, told is null ? Guid.Empty : Messages.ToToken(ByteString.CopyFrom(told)));
    }

    private static async Task<Registration> ReadRegistrationAsync(
        IAsyncStreamReader<Protocol.MemberMessage> messages, CancellationToken cancellationToken)
    {
        using var limit = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        limit.CancelAfter(RegistrationTimeout);
        try
        {
            return await messages.MoveNext(limit.Token).ConfigureAwait(false) && messages.Current.Register is { } registration
                ? Messages.FromMessage(registration)
                : throw new InvalidDataException("a member has to register first");
        }
        catch (InvalidDataException error)
        {
            throw new RpcException(new Status(StatusCode.InvalidArgument, error.Message));
        }
        catch (OperationCanceledException) when (!cancellationToken.IsCancellationRequested)
        {
            throw new RpcException(new Status(
                StatusCode.DeadlineExceeded, $"the coordinator waited {RegistrationTimeout.TotalSeconds:0} s for the registration"));
        }
    }

    /// <summary>Hears a member until it leaves, is gone, or <paramref name="cancellationToken"/> ends it.</summary>
    private async Task ListenAsync(Member member, IAsyncStreamReader<Protocol.MemberMessage> messages, CancellationToken cancellationToken)
    {
        try
        {
            while (await messages.MoveNext(cancellationToken).ConfigureAwait(false))
            {
                state.Hear(member);
                switch (messages.Current.ContentCase)
                {
                    case Protocol.MemberMessage.ContentOneofCase.Leave:
                        state.Leave(member);
                        return;
                    case Protocol.MemberMessage.ContentOneofCase.Failed:
                        state.Fail(member, messages.Current.Failed.Message);
                        break;
                }
            }
        }
        catch (Exception error) when (error is OperationCanceledException or IOException or InvalidOperationException or RpcException)
        {
            // Below: whatever ended it, the member has not left.
        }

        state.Lose(member, "its connection closed (the process died or was killed)");
    }

    private static T Guard<T>(Func<T> call)
    {
        try
        {
            return call();
        }
        catch (ParameterServerException error)
        {
            throw Refusal(error);
        }
    }

    private static async Task<T> GuardAsync<T>(Func<Task<T>> call)
    {
        try
        {
            return await call().ConfigureAwait(false);
        }
        catch (ParameterServerException error)
        {
            throw Refusal(error);
        }
    }

    private static RpcException Refusal(ParameterServerException error) => new(new Status(StatusCode.FailedPrecondition, error.Message));
}

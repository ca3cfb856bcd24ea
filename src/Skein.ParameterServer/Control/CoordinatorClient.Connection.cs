using Grpc.Core;

namespace Skein.ParameterServer.Control;

/// <content>The stream to the coordinator, and its errors.</content>
public sealed partial class CoordinatorClient
{
    private async Task ReceiveAsync()
    {
        string? lost = $"the coordinator at {address} was lost";
        try
        {
            while (await stream.ResponseStream.MoveNext(CancellationToken.None).ConfigureAwait(false))
            {
                Show(Messages.FromMessage(stream.ResponseStream.Current));
            }
        }
        catch (RpcException error) when (error.StatusCode == StatusCode.FailedPrecondition)
        {
            lost = error.Status.Detail;
        }
        catch (Exception error) when (error is RpcException or ObjectDisposedException)
        {
            // Said above; the details of HTTP/2 would not help.
        }

        if (!leaving) Show(view with { Failure = lost });
    }

    private async Task BeatAsync()
    {
        using var timer = new PeriodicTimer(HeartbeatPeriod);
        var heartbeat = new Protocol.MemberMessage { Heartbeat = new Protocol.Heartbeat() };
        try
        {
            while (await timer.WaitForNextTickAsync(lifetime.Token).ConfigureAwait(false) && !leaving)
            {
                if (!await SayAsync(heartbeat).ConfigureAwait(false)) return;
            }
        }
        catch (OperationCanceledException)
        {
            // This member goes.
        }
    }

    /// <returns>Whether there still is a coordinator to say it to.</returns>
    private async Task<bool> SayAsync(Protocol.MemberMessage message)
    {
        await writing.WaitAsync(lifetime.Token).ConfigureAwait(false);
        try
        {
            await stream.RequestStream.WriteAsync(message, lifetime.Token).ConfigureAwait(false);
            return true;
        }
        catch (Exception error) when (error is RpcException or InvalidOperationException)
        {
            return false;
        }
        finally
        {
            writing.Release();
        }
    }

    private async Task<T> CallAsync<T>(Func<CancellationToken, AsyncUnaryCall<T>> call, CancellationToken cancellationToken)
    {
        using var either = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken, JobEnded, lifetime.Token);
        try
        {
            using AsyncUnaryCall<T> running = call(either.Token);
            return await running.ResponseAsync.ConfigureAwait(false);
        }
        catch (RpcException error)
        {
            cancellationToken.ThrowIfCancellationRequested();
            ObjectDisposedException.ThrowIf(lifetime.IsCancellationRequested, this);
            throw ControlChannel.Explain(error, view.Failure ?? (view.Finished ? "the job has finished" : $"the coordinator at {address} was lost"));
        }
    }

    // The first failure is the cause, and a job that has ended stays as it is.
    private void Show(JobView next)
    {
        lock (gate)
        {
            if (view.HasEnded) return;
            view = next;
            changed.SetResult();
            changed = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        }

        // On threads of their own: what others do on it must not keep this one from hearing the coordinator.
        if (next.HasEnded) _ = ended.CancelAsync();
    }
}

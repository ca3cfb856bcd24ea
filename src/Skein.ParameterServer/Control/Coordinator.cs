namespace Skein.ParameterServer.Control;

/// <summary>
/// The centre of a job with parameter servers: knows who takes part and who serves which shard, notices who is lost,
/// promotes backups, hands out work and adds up what workers report. One for each job; its members reach it where
/// <see cref="Service"/> is served. Thread-safe.
/// </summary>
public sealed class Coordinator : IAsyncDisposable
{
    private static readonly TimeSpan TickPeriod = TimeSpan.FromMilliseconds(100);

    private readonly CoordinatorState state;
    private readonly CancellationTokenSource stopping = new();
    private readonly Task ticking;

    /// <summary>Starts to wait for members.</summary>
    /// <exception cref="ArgumentOutOfRangeException">A number in <paramref name="options"/> is out of its range.</exception>
    public Coordinator(CoordinatorOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        options.Validate();
        state = new CoordinatorState(options);
        Service = new ControlService(Protocol.Coordination.BindService(new CoordinationService(state)), Protocol.Coordination.Descriptor);
        ticking = Task.Run(TickAsync);
    }

    /// <summary>What members call, by <see cref="CoordinatorClient"/>.</summary>
    public ControlService Service { get; }

    /// <summary>Completes when the job has ended: with null when all workers have left, with the reason when it failed.</summary>
    public Task<string?> Finished => state.Ended;

    /// <summary>Stops: a job that has not ended fails by it. Its members hear of it as long as the service is still served.</summary>
    public async ValueTask DisposeAsync()
    {
        if (stopping.IsCancellationRequested) return;
        await stopping.CancelAsync().ConfigureAwait(false);
        await ticking.ConfigureAwait(false);
        state.Fail("the coordinator was stopped before the job had ended");
        state.Close();
        stopping.Dispose();
    }

    private async Task TickAsync()
    {
        using var timer = new PeriodicTimer(TickPeriod);
        try
        {
            while (await timer.WaitForNextTickAsync(stopping.Token).ConfigureAwait(false)) state.Tick();
        }
        catch (OperationCanceledException)
        {
            // The coordinator stops.
        }
    }
}

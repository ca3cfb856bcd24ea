using System.Net;

namespace Skein.ParameterServer.Control;

/// <summary>
/// The centre of a job with parameter servers: knows who takes part and who serves which shard, notices who is lost,
/// promotes backups, hands out work and adds up what workers report. One for each job; thread-safe.
/// </summary>
public sealed class Coordinator : IAsyncDisposable
{
    private static readonly TimeSpan TickPeriod = TimeSpan.FromMilliseconds(100);

    private readonly CoordinatorState state;
    private readonly ControlHost host;
    private readonly CancellationTokenSource stopping = new();
    private readonly Task ticking;

    private Coordinator(CoordinatorState state, ControlHost host)
    {
        this.state = state;
        this.host = host;
        ticking = Task.Run(TickAsync);
    }

    /// <summary>Where members register.</summary>
    public IPEndPoint Endpoint => host.Endpoint;

    /// <summary>Completes when the job has ended: with null when all workers have left, with the reason when it failed.</summary>
    public Task<string?> Finished => state.Ended;

    /// <summary>
    /// A process of this host that was started as a member has ended. The job fails by it where it still waits for members
    /// and this one never came; the loss of one that did come is noticed anyway.
    /// </summary>
    /// <param name="processId">The process's number.</param>
    /// <param name="what">Who ended and how, as in "server-0 exited with code 1".</param>
    public void ReportEnded(int processId, string what) => state.ReportEnded(processId, what);

    /// <summary>Starts to wait for members.</summary>
    /// <exception cref="Skein.Collectives.RendezvousException">The address cannot be listened at.</exception>
    public static async Task<Coordinator> StartAsync(CoordinatorOptions options, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(options);
        options.Validate();
        var state = new CoordinatorState(options);
        ControlHost host = await ControlHost.StartAsync(
            options.Listen, options.Secret, new CoordinationService(state), options.Logger, cancellationToken).ConfigureAwait(false);
        return new Coordinator(state, host);
    }

    /// <summary>Stops: a job that has not ended fails by it. Tells the members, for at most 2 s.</summary>
    public async ValueTask DisposeAsync()
    {
        if (stopping.IsCancellationRequested) return;
        await stopping.CancelAsync().ConfigureAwait(false);
        await ticking.ConfigureAwait(false);
        state.Fail("the coordinator was stopped before the job had ended");
        state.Close();
        await host.DisposeAsync().ConfigureAwait(false);
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

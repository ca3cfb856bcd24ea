using System.Runtime.InteropServices;

namespace Skein.Hosting;

/// <summary>The signals that reach the launcher, so that it can pass them on to its workers before it ends.</summary>
internal sealed class Interruption : IDisposable
{
    private readonly TaskCompletionSource<int> first = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly TaskCompletionSource second = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly CancellationTokenSource cancellation = new();
    private readonly List<IDisposable> registrations = [];
    private volatile Action? quitAsked;

    /// <param name="cancellationToken">Counts as a SIGTERM.</param>
    public Interruption(CancellationToken cancellationToken)
    {
        registrations.Add(Handle(PosixSignal.SIGINT, () => Interrupt(Signals.Interrupt)));
        registrations.Add(Handle(PosixSignal.SIGTERM, () => Interrupt(Signals.Terminate)));
        registrations.Add(Handle(PosixSignal.SIGQUIT, () => quitAsked?.Invoke()));
        if (!HangUpIsIgnored()) registrations.Add(Handle(PosixSignal.SIGHUP, () => Interrupt(Signals.Terminate)));
        registrations.Add(cancellationToken.Register(() => Interrupt(Signals.Terminate)));
    }

    /// <summary>Called for each SIGQUIT, which asks for dumps and ends nothing.</summary>
    public Action? QuitAsked
    {
        set => quitAsked = value;
    }

    /// <summary>The signal that asked the launcher to end.</summary>
    public Task<int> First => first.Task;

    /// <summary>Cancelled with <see cref="First"/>.</summary>
    public CancellationToken Token => cancellation.Token;

    /// <summary>Done when a second one came: whoever sends it does not want to wait.</summary>
    public Task Second => second.Task;

    // The source is left to the collector: a signal may be under way, and would then meet a disposed one.
    public void Dispose()
    {
        foreach (var registration in registrations) registration.Dispose();
    }

    private static PosixSignalRegistration Handle(PosixSignal signal, Action action) =>
        PosixSignalRegistration.Create(signal, context =>
        {
            context.Cancel = true;
            action();
        });

    private void Interrupt(int signal)
    {
        if (first.TrySetResult(signal)) cancellation.Cancel();
        else second.TrySetResult();
    }

    // nohup ignores SIGHUP on behalf of the job; a handler of ours would undo that.
    private static bool HangUpIsIgnored() => Signals.Has("self", "SigIgn", Signals.HangUp);
}

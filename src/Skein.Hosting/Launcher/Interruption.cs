using System.Runtime.InteropServices;

namespace Skein.Hosting;

/// <summary>The signals that reach the launcher, so that it can pass them on to its workers before it ends.</summary>
internal sealed class Interruption : IDisposable
{
    private readonly TaskCompletionSource<int> first = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly TaskCompletionSource second = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly CancellationTokenSource cancellation = new();
    private readonly List<IDisposable> registrations = [];

    /// <param name="onQuit">Called for each SIGQUIT, which asks for a dump and ends nothing.</param>
    /// <param name="cancellationToken">Counts as a SIGTERM.</param>
    public Interruption(Action onQuit, CancellationToken cancellationToken)
    {
        registrations.Add(Handle(PosixSignal.SIGINT, () => Interrupt(Signals.Interrupt)));
        registrations.Add(Handle(PosixSignal.SIGTERM, () => Interrupt(Signals.Terminate)));
        registrations.Add(Handle(PosixSignal.SIGQUIT, onQuit));
        if (!HangUpIsIgnored()) registrations.Add(Handle(PosixSignal.SIGHUP, () => Interrupt(Signals.Terminate)));
        registrations.Add(cancellationToken.Register(() => Interrupt(Signals.Terminate)));
    }

    /// <summary>The signal that asked the launcher to end.</summary>
    public Task<int> First => first.Task;

    /// <summary>Cancelled with <see cref="First"/>.</summary>
    public CancellationToken Token => cancellation.Token;

    /// <summary>Done when a second one came: whoever sends it does not want to wait.</summary>
    public Task Second => second.Task;

    public void Dispose()
    {
        foreach (var registration in registrations) registration.Dispose();
        cancellation.Dispose();
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
    private static bool HangUpIsIgnored()
    {
        if (!File.Exists("/proc/self/status")) return false;
        var mask = File.ReadLines("/proc/self/status").FirstOrDefault(line => line.StartsWith("SigIgn:", StringComparison.Ordinal));
        return mask is not null && (Convert.ToUInt64(mask[7..].Trim(), 16) & 1) != 0;
    }
}

using System.Runtime.InteropServices;

namespace Skein.Collectives;

/// <summary>
/// SIGQUIT asks a rank for a dump and ends nothing, from before it meets the others until it has left. Thread-safe.
/// </summary>
internal sealed class QuitSignal : IDisposable
{
    private readonly PosixSignalRegistration? registration;
    private volatile Action? dump;

    public QuitSignal()
    {
        if (OperatingSystem.IsWindows()) return;
        registration = PosixSignalRegistration.Create(PosixSignal.SIGQUIT, context =>
        {
            context.Cancel = true;
            dump?.Invoke();
        });
    }

    /// <summary>From now on, each signal calls <paramref name="action"/>, on a thread of the pool.</summary>
    public void Serve(Action action) => dump = action;

    public void Dispose() => registration?.Dispose();
}

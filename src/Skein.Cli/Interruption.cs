using System.Runtime.InteropServices;

namespace Skein.Cli;

/// <summary>SIGINT and SIGTERM as the cancellation of a token, for as long as this is not disposed.</summary>
internal sealed class Interruption : IDisposable
{
    private readonly CancellationTokenSource cancellation = new();
    private readonly PosixSignalRegistration[] signals;

    /// <param name="grace">After which the process ends though it has not heeded the token. Null: never.</param>
    public Interruption(TimeSpan? grace = null)
    {
        signals = [PosixSignalRegistration.Create(PosixSignal.SIGINT, Stop), PosixSignalRegistration.Create(PosixSignal.SIGTERM, Stop)];

        void Stop(PosixSignalContext context)
        {
            context.Cancel = true;
            cancellation.Cancel();
            if (grace is not { } time) return;
            _ = Task.Delay(time).ContinueWith(static _ => Environment.Exit(CommandLine.Interrupted), TaskScheduler.Default);
        }
    }

    public CancellationToken Token => cancellation.Token;

    public void Dispose()
    {
        foreach (PosixSignalRegistration signal in signals) signal.Dispose();
        cancellation.Dispose();
    }
}

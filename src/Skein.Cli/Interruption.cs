using System.Runtime.InteropServices;
using Skein.Collectives.Rendezvous;

namespace Skein.Cli;

/// <summary>SIGINT and SIGTERM as the cancellation of a token, for as long as this is not disposed.</summary>
internal sealed class Interruption : IDisposable
{
    // Left to the collector: a second signal may meet the end.
    private readonly CancellationTokenSource cancellation = new();
    private readonly PosixSignalRegistration[] signals;
    private volatile int exitCode = CommandLine.Interrupted;

    /// <param name="grace">After which the process ends though it has not heeded the token. Null: never.</param>
    public Interruption(TimeSpan? grace = null)
    {
        signals = [PosixSignalRegistration.Create(PosixSignal.SIGINT, Stop), PosixSignalRegistration.Create(PosixSignal.SIGTERM, Stop)];

        void Stop(PosixSignalContext context)
        {
            context.Cancel = true;
            if (context.Signal == PosixSignal.SIGTERM && LauncherEnvironment.HasRank()) exitCode = CommandLine.Terminated;
            cancellation.Cancel();
            if (grace is not { } time) return;
            _ = Task.Delay(time).ContinueWith(_ => Environment.Exit(exitCode), TaskScheduler.Default);
        }
    }

    public CancellationToken Token => cancellation.Token;

    /// <summary>The exit code of a command that was interrupted. A launcher tells by it which signal ended one of its ranks.</summary>
    public int ExitCode => exitCode;

    public void Dispose()
    {
        foreach (PosixSignalRegistration signal in signals) signal.Dispose();
    }
}

using Microsoft.Extensions.Logging;

namespace Skein.Collectives.Tests.Rendezvous;

/// <summary>Keeps the warnings that were logged.</summary>
internal sealed class RecordingLogger : ILogger
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);
    private readonly List<string> warnings = [];
    private TaskCompletionSource added = new(TaskCreationOptions.RunContinuationsAsynchronously);

    /// <summary>The warnings, once there are so many.</summary>
    public async Task<string[]> WarningsAsync(int count)
    {
        while (true)
        {
            Task next;
            lock (warnings)
            {
                if (warnings.Count >= count) return [.. warnings];
                next = added.Task;
            }

            await next.WaitAsync(Patience);
        }
    }

    public IDisposable? BeginScope<TState>(TState state) where TState : notnull => null;

    public bool IsEnabled(LogLevel logLevel) => true;

    public void Log<TState>(
        LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter)
    {
        if (logLevel < LogLevel.Warning) return;
        lock (warnings)
        {
            warnings.Add(formatter(state, exception) + exception);
            added.SetResult();
            added = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        }
    }
}

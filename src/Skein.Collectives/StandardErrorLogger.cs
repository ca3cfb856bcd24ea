using Microsoft.Extensions.Logging;

namespace Skein.Collectives;

/// <summary>
/// Writes messages from a level on to standard error, one line each. What a group gets that takes its options from the
/// environment: <c>SKEIN_LOG_LEVEL</c> is <c>trace</c>, <c>debug</c>, <c>information</c>, <c>warning</c> (the default),
/// <c>error</c> or <c>none</c>. Thread-safe.
/// </summary>
public sealed class StandardErrorLogger : ILogger
{
    private readonly LogLevel lowest;

    /// <param name="lowest">The lowest level that is written.</param>
    public StandardErrorLogger(LogLevel lowest) => this.lowest = lowest;

    /// <inheritdoc/>
    public IDisposable? BeginScope<TState>(TState state) where TState : notnull => null;

    /// <inheritdoc/>
    public bool IsEnabled(LogLevel logLevel) => logLevel >= lowest && logLevel != LogLevel.None;

    /// <inheritdoc/>
    public void Log<TState>(LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter)
    {
        ArgumentNullException.ThrowIfNull(formatter);
        if (IsEnabled(logLevel)) Console.Error.WriteLine($"skein: {logLevel.ToString().ToLowerInvariant()}: {formatter(state, exception)}");
    }
}

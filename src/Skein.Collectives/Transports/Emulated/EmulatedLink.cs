using System.Diagnostics;

namespace Skein.Collectives.Transports.Emulated;

/// <summary>
/// The one line by which a rank's bytes leave, whatever their group and peer: a token bucket that is a clock, so that
/// errors of timers do not add up. Thread-safe.
/// </summary>
internal sealed class EmulatedLink(NetworkEmulation network)
{
    /// <summary>What may wait to leave: enough that a sender who looks again within a slice of a wait keeps the line busy.</summary>
    private const double BacklogSeconds = 0.025;

    private static readonly long BacklogTicks = (long)(BacklogSeconds * Stopwatch.Frequency);

    private readonly double ticksPerByte = Stopwatch.Frequency / network.BytesPerSecond;
    private readonly long latencyTicks = (long)(network.Latency.TotalSeconds * Stopwatch.Frequency);
    private readonly Lock gate = new();
    private double free;

    /// <summary>Takes the line for <paramref name="bytes"/> bytes: when the last of them arrives, as a timestamp.</summary>
    public long Reserve(int bytes)
    {
        lock (gate)
        {
            free = Math.Max(free, Stopwatch.GetTimestamp()) + (bytes * ticksPerByte);
            return (long)free + latencyTicks;
        }
    }

    /// <summary>The ticks after which something may be sent, 0 when at once.</summary>
    public long TicksUntilRoom()
    {
        lock (gate) return Math.Max(0, (long)free - Stopwatch.GetTimestamp() - BacklogTicks);
    }
}

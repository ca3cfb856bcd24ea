using System.Runtime.InteropServices;

namespace Skein.Collectives.Transports.SharedMemory;

/// <summary>
/// A counter in shared memory that other processes can sleep on until it moves. It lives on a cache line of its own,
/// is zero at first and wraps around.
/// </summary>
[StructLayout(LayoutKind.Sequential, Size = 64)]
internal unsafe struct EventCount
{
    public int Value;
    private int sleepers;

    /// <summary>Moves the counter on and wakes those who sleep; everything written before is visible to who sees it.</summary>
    public static void Advance(EventCount* count)
    {
        // A full fence on both sides: either the sleeper sees the new value, or this side sees the sleeper.
        Interlocked.Increment(ref count->Value);
        if (Volatile.Read(ref count->sleepers) != 0 && Posix.HasFutex) Posix.WakeAll(&count->Value);
    }

    public static int Read(EventCount* count) => Volatile.Read(ref count->Value);

    /// <summary>Blocks while the counter is at <paramref name="seen"/>, for <paramref name="milliseconds"/> at most.</summary>
    public static void Sleep(EventCount* count, int seen, int milliseconds)
    {
        if (!Posix.HasFutex)
        {
            if (Read(count) == seen) Thread.Sleep(Math.Min(1, milliseconds));
            return;
        }

        Interlocked.Increment(ref count->sleepers);
        Posix.Sleep(&count->Value, seen, milliseconds);
        Interlocked.Decrement(ref count->sleepers);
    }
}

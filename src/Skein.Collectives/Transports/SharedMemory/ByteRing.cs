using System.Runtime.InteropServices;

namespace Skein.Collectives.Transports.SharedMemory;

/// <summary>
/// A ring of bytes in shared memory with one writer and one reader. Head and tail count bytes since the start, each on
/// a cache line of its own.
/// </summary>
[StructLayout(LayoutKind.Explicit, Size = HeaderBytes)]
internal unsafe struct ByteRing
{
    public const int HeaderBytes = 128;

    [FieldOffset(0)]
    private long written;

    [FieldOffset(64)]
    private long read;

    private static byte* Data(ByteRing* ring) => (byte*)ring + HeaderBytes;

    /// <summary>Copies in what fits, at most <paramref name="bytes"/>; returns how much.</summary>
    public static int Write(ByteRing* ring, int capacity, ReadOnlySpan<byte> bytes)
    {
        long end = ring->written;
        int length = (int)Math.Min(bytes.Length, capacity - (end - Volatile.Read(ref ring->read)));
        if (length <= 0) return 0;
        int offset = (int)(end & (capacity - 1));
        int first = Math.Min(length, capacity - offset);
        bytes[..first].CopyTo(new Span<byte>(Data(ring) + offset, first));
        bytes[first..length].CopyTo(new Span<byte>(Data(ring), length - first));
        Volatile.Write(ref ring->written, end + length);
        return length;
    }

    /// <summary>Copies out what is there, at most the span's length; returns how much.</summary>
    public static int Read(ByteRing* ring, int capacity, Span<byte> bytes)
    {
        long start = ring->read;
        int length = (int)Math.Min(bytes.Length, Volatile.Read(ref ring->written) - start);
        if (length <= 0) return 0;
        int offset = (int)(start & (capacity - 1));
        int first = Math.Min(length, capacity - offset);
        new ReadOnlySpan<byte>(Data(ring) + offset, first).CopyTo(bytes);
        new ReadOnlySpan<byte>(Data(ring), length - first).CopyTo(bytes[first..]);
        Volatile.Write(ref ring->read, start + length);
        return length;
    }
}

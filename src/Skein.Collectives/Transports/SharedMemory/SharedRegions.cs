namespace Skein.Collectives.Transports.SharedMemory;

/// <summary>
/// The buffers of a group that live in shared memory: for an address of this rank, where the same place of the same
/// buffer lies in each peer's memory. Buffers are few and long-lived. Thread-safe.
/// </summary>
internal sealed unsafe class SharedRegions(int worldSize) : IDisposable
{
    private readonly object gate = new();
    private Region[] regions = [];
    private int next;

    /// <summary>Adds the buffer of each rank, in rank order, and returns this rank's address.</summary>
    public nint Add(SharedSegment[] segments, int rank)
    {
        lock (gate)
        {
            var region = new Region(next++, segments, rank);
            regions = [.. regions, region];
            return region.Start;
        }
    }

    public void Remove(nint start)
    {
        lock (gate)
        {
            Region? gone = Array.Find(regions, r => r.Start == start);
            regions = Array.FindAll(regions, r => r != gone);
            gone?.Dispose();
        }
    }

    /// <summary>The number and offset of the buffer that holds these bytes, or (-1, 0) for ordinary memory.</summary>
    public (int Region, long Offset) Find(byte* bytes, nint length)
    {
        foreach (Region region in Volatile.Read(ref regions))
        {
            long offset = (nint)bytes - region.Start;
            if (offset >= 0 && offset + length <= region.Length) return (region.Number, offset);
        }

        return (-1, 0);
    }

    /// <summary>Fills in where each rank's copy of that place is mapped in this process.</summary>
    public void Resolve(int number, long offset, Span<nint> addresses)
    {
        Region region = Array.Find(regions, r => r.Number == number)
            ?? throw new InvalidOperationException("a shared buffer was disposed while a collective used it");
        for (int rank = 0; rank < worldSize; rank++) addresses[rank] = (nint)(region.Segments[rank].Address + offset);
    }

    public void Dispose()
    {
        foreach (Region region in regions) region.Dispose();
        regions = [];
    }

    private sealed class Region(int number, SharedSegment[] segments, int rank) : IDisposable
    {
        public int Number => number;

        public SharedSegment[] Segments => segments;

        public nint Start { get; } = (nint)segments[rank].Address;

        public long Length { get; } = segments[rank].Length;

        public void Dispose()
        {
            foreach (SharedSegment segment in segments) segment.Dispose();
        }
    }
}

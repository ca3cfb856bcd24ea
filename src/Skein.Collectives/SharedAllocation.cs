using System.Runtime.InteropServices;
using System.Text;
using Skein.Collectives.Transports.SharedMemory;

namespace Skein.Collectives;

/// <summary>Makes the memory of <see cref="SharedBuffer{T}"/>: mapped by all ranks where they share memory, else this rank's own.</summary>
internal static unsafe class SharedAllocation
{
    private const int LocationBytes = 256;

    public static SharedBuffer<T> Make<T>(ProcessGroup group, SharedRegions? regions, Job job, long bytes, int length) where T : unmanaged
    {
        if (regions is null)
        {
            byte* own = NativePages.Allocate((nint)bytes);
            return new SharedBuffer<T>((nint)own, length, address => NativeMemory.AlignedFree((void*)address));
        }

        // Whole huge pages, so that the kernel can use them; the tail costs nothing until touched.
        long rounded = (Math.Max(bytes, 1) + (2 << 20) - 1) / (2 << 20) * (2 << 20);
        var segments = new SharedSegment[group.WorldSize];
        SharedSegment mine = segments[group.Rank] = SharedSegment.Create($"skein-{job.Options.JobId}-buffer", rounded);
        new Span<byte>(mine.Address, (int)Math.Min(int.MaxValue, bytes)).Clear();
        byte[] locations = new byte[LocationBytes * group.WorldSize];
        byte[] location = new byte[LocationBytes];
        Encoding.UTF8.GetBytes(mine.Location, location);
        group.AllGather<byte>(location, locations);
        for (int rank = 0; rank < segments.Length; rank++)
        {
            if (rank == group.Rank) continue;
            string where = Encoding.UTF8.GetString(locations, rank * LocationBytes, LocationBytes).TrimEnd('\0');
            segments[rank] = SharedSegment.Open(where, rounded);
        }

        group.Barrier();
        foreach (SharedSegment segment in segments) segment.Seal();
        nint start = regions.Add(segments, group.Rank);
        return new SharedBuffer<T>(start, length, regions.Remove);
    }
}

using System.Numerics;

namespace Skein.Collectives.Transports.SharedMemory;

/// <summary>
/// Where things lie in a group's shared segment: one control block per rank, then the staging areas, then a ring for
/// each ordered pair of ranks, twice.
/// </summary>
internal sealed unsafe class SharedLayout
{
    /// <summary>Staging areas in flight per rank: one being filled, one being reduced, one being read.</summary>
    public const int StagingSlots = 3;

    /// <summary>Two sets of rings: for collectives, and for messages between two ranks.</summary>
    public const int Channels = 2;

    private const int ControlBytes = 4096;
    private const long LargestRings = 64L << 20;
    private readonly int ranks;
    private readonly long staging;
    private readonly long rings;

    public SharedLayout(int ranks, int stagingBytes)
    {
        this.ranks = ranks;
        StagingBytes = stagingBytes;
        // Rings grow with the square of the ranks, so that many ranks get small ones.
        long share = LargestRings / ((long)ranks * ranks);
        RingBytes = (int)BitOperations.RoundUpToPowerOf2((uint)Math.Clamp(share, 32 << 10, 512 << 10));
        staging = (long)ranks * ControlBytes;
        rings = staging + ((long)ranks * StagingSlots * stagingBytes);
        Length = rings + ((long)Channels * ranks * ranks * (RingBytes + ByteRing.HeaderBytes));
    }

    public int StagingBytes { get; }

    public int RingBytes { get; }

    public long Length { get; }

    /// <summary>Counts the chunks that a rank has made readable for its peers.</summary>
    public static EventCount* Copied(byte* segment, int rank) => (EventCount*)(segment + ((long)rank * ControlBytes));

    /// <summary>Counts the slices that a rank has reduced.</summary>
    public static EventCount* Reduced(byte* segment, int rank) => Copied(segment, rank) + 1;

    /// <summary>Moves when one of the rank's rings got bytes or room.</summary>
    public static EventCount* Doorbell(byte* segment, int channel, int rank) => Copied(segment, rank) + 2 + channel;

    /// <summary>The call that a rank is in; two in turn, so that a fast rank never overwrites what a slow one reads.</summary>
    public static DirectCall* Call(byte* segment, int rank, long turn) =>
        (DirectCall*)(segment + ((long)rank * ControlBytes) + 1024) + (turn & 1);

    public byte* Staging(byte* segment, int rank, long slot) =>
        segment + staging + (((long)rank * StagingSlots) + (slot % StagingSlots)) * StagingBytes;

    public ByteRing* Ring(byte* segment, int channel, int from, int to) =>
        (ByteRing*)(segment + rings + ((((((long)channel * ranks) + from) * ranks) + to) * (RingBytes + ByteRing.HeaderBytes)));
}

/// <summary>A call as the peers see it in shared memory: its signature, and where its buffer lies if that is shared too.</summary>
internal struct DirectCall
{
    public CallSignature Signature;
    public int Region;
    public long Offset;
}

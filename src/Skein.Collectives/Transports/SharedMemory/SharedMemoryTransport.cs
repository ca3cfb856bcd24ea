namespace Skein.Collectives.Transports.SharedMemory;

/// <summary>Streams through rings in memory that all ranks of a host have mapped.</summary>
/// <remarks>Waiting ranks sleep on their doorbell, which a peer rings when it has written to a ring or made room in one.</remarks>
internal sealed unsafe class SharedMemoryTransport : Transport
{
    private readonly SharedSegment segment;
    private readonly SharedLayout layout;
    private readonly int[] slots;
    private readonly int slot;
    private readonly int channel;
    private int seen;

    /// <param name="rank">This process's rank in the group.</param>
    /// <param name="slots">For each rank of the group its place in the segment, or -1 on another host.</param>
    /// <param name="segment">The mapped segment; it outlives the transport.</param>
    /// <param name="layout">What lies where.</param>
    /// <param name="channel">Which of the segment's sets of rings.</param>
    /// <param name="name">The name to show.</param>
    public SharedMemoryTransport(int rank, int[] slots, SharedSegment segment, SharedLayout layout, int channel, string name)
        : base(rank, slots.Length)
    {
        this.slots = slots;
        this.segment = segment;
        this.layout = layout;
        this.channel = channel;
        slot = slots[rank];
        Name = name;
    }

    public override string Name { get; }

    public override int PieceBytes => layout.RingBytes / 2;

    public byte* Base => segment.Address;

    public override int TrySend(int peer, ReadOnlySpan<byte> header, ReadOnlySpan<byte> payload)
    {
        ByteRing* ring = layout.Ring(Base, channel, slot, slots[peer]);
        int sent = ByteRing.Write(ring, layout.RingBytes, header);
        if (sent == header.Length) sent += ByteRing.Write(ring, layout.RingBytes, payload);
        if (sent > 0) EventCount.Advance(SharedLayout.Doorbell(Base, channel, slots[peer]));
        return sent;
    }

    public override int TryReceive(int peer, Span<byte> header, Span<byte> payload)
    {
        ByteRing* ring = layout.Ring(Base, channel, slots[peer], slot);
        int received = ByteRing.Read(ring, layout.RingBytes, header);
        if (received == header.Length) received += ByteRing.Read(ring, layout.RingBytes, payload);
        if (received > 0) EventCount.Advance(SharedLayout.Doorbell(Base, channel, slots[peer]));
        return received;
    }

    public override void Wait(ReadOnlySpan<int> sendPeers, ReadOnlySpan<int> receivePeers, int milliseconds)
    {
        // What rang since the last wait has been looked at only after `seen` was read, so that no ring is missed.
        EventCount* doorbell = SharedLayout.Doorbell(Base, channel, slot);
        EventCount.Sleep(doorbell, seen, milliseconds);
        seen = EventCount.Read(doorbell);
    }

    public override void Dispose() { }
}

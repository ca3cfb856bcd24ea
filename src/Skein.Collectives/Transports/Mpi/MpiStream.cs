using System.Diagnostics;
using System.Runtime.InteropServices;

namespace Skein.Collectives.Transports.Mpi;

/// <summary>
/// One direction between two ranks: a few slots of memory, each a message, used in turn. Not thread-safe.
/// </summary>
internal abstract unsafe class MpiStream(OpenMpi mpi, int peer, int tag) : IDisposable
{
    /// <summary>What a slot holds besides a header.</summary>
    public const int PieceBytes = 128 * 1024;

    protected const int SlotBytes = PieceBytes + 4096;
    private const int SlotCount = 4;
    private static readonly TimeSpan DisposePatience = TimeSpan.FromSeconds(1);

    private readonly byte* memory = NativePages.Allocate(SlotCount * SlotBytes);
    private readonly MpiRequest[] requests = [.. Enumerable.Range(0, SlotCount).Select(_ => new MpiRequest())];
    private int slot;

    protected OpenMpi Mpi { get; } = mpi;

    protected int Peer { get; } = peer;

    protected int Tag { get; } = tag;

    protected MpiRequest Current => requests[slot];

    protected byte* CurrentSlot => memory + (slot * SlotBytes);

    /// <summary>Whether the stream may move.</summary>
    public bool Ready => Mpi.Poll(Current);

    protected void Next() => slot = (slot + 1) % SlotCount;

    /// <summary>Gives the memory back; what MPI does not let go of in time stays allocated.</summary>
    public void Dispose()
    {
        long start = Stopwatch.GetTimestamp();
        foreach (MpiRequest request in requests)
        {
            Withdraw(request);
            while (!Mpi.Poll(request))
            {
                if (Stopwatch.GetElapsedTime(start) > DisposePatience) return;
                Thread.Sleep(1);
            }
        }

        NativeMemory.AlignedFree(memory);
    }

    protected virtual void Withdraw(MpiRequest request) { }
}

/// <summary>The sending side: fills a free slot and starts it on its way.</summary>
internal sealed unsafe class MpiSendStream(OpenMpi mpi, int peer, int tag) : MpiStream(mpi, peer, tag)
{
    public int TrySend(ReadOnlySpan<byte> header, ReadOnlySpan<byte> payload)
    {
        if (!Ready) return 0;
        var target = new Span<byte>(CurrentSlot, SlotBytes);
        payload = payload[..Math.Min(payload.Length, SlotBytes - header.Length)];
        header.CopyTo(target);
        payload.CopyTo(target[header.Length..]);
        int length = header.Length + payload.Length;
        if (length == 0) return 0;
        Mpi.Send(Current, CurrentSlot, length, Peer, Tag);
        Next();
        return length;
    }
}

/// <summary>The receiving side: keeps all slots posted, in order, and hands out what has arrived.</summary>
internal sealed unsafe class MpiReceiveStream : MpiStream
{
    private int taken;

    public MpiReceiveStream(OpenMpi mpi, int peer, int tag) : base(mpi, peer, tag)
    {
        do Post();
        while (Current.Completed);
    }

    public int TryReceive(Span<byte> into)
    {
        if (into.IsEmpty || !Ready) return 0;
        int length = Math.Min(into.Length, Current.Length - taken);
        new ReadOnlySpan<byte>(CurrentSlot + taken, length).CopyTo(into);
        taken += length;
        if (taken == Current.Length) Post();
        return length;
    }

    protected override void Withdraw(MpiRequest request) => Mpi.Cancel(request);

    private void Post()
    {
        taken = 0;
        Mpi.Receive(Current, CurrentSlot, SlotBytes, Peer, Tag);
        Next();
    }
}

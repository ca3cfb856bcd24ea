using System.Runtime.CompilerServices;
using Skein.Collectives.Reduction;

namespace Skein.Collectives.Transports.SharedMemory;

/// <summary>
/// Collectives among ranks that have memory in common: each rank reduces its slice straight from its peers' memory.
/// Ordinary buffers pass through staging areas in chunks that stay in the cache; buffers from
/// <see cref="ProcessGroup.AllocateShared{T}"/> need no copy in or out.
/// </summary>
/// <remarks>
/// Each rank counts the chunks it has made readable (copied) and the slices it has reduced, and waits for its peers'
/// counts. The sum is always taken in rank order, so that it is the same on all ranks, at all sizes.
/// </remarks>
internal sealed unsafe class DirectMemory
{
    /// <summary>Up to this size per rank, every rank reduces everything itself: one wait instead of two.</summary>
    private const int OneShotBytes = 32 * 1024;

    /// <summary>Shared buffers are reduced in blocks of this size, which the copies to the peers find in the cache.</summary>
    private const int BlockBytes = 256 * 1024;

    private readonly SharedLayout layout;
    private readonly SharedRegions regions;
    private readonly Patience patience;
    private readonly int[] members;
    private readonly int rank;
    private readonly int worldSize;
    private readonly byte* segment;
    private readonly nint[] sources;
    private readonly nint[] buffers;
    private long turn;
    private long staged;
    private int copied;
    private int reduced;
    private CallSignature current;

    public DirectMemory(
        SharedMemoryTransport transport, SharedLayout layout, SharedRegions regions, Patience patience, int[] members)
    {
        this.layout = layout;
        this.regions = regions;
        this.patience = patience;
        this.members = members;
        rank = transport.Rank;
        worldSize = transport.WorldSize;
        segment = transport.Base;
        sources = new nint[worldSize];
        buffers = new nint[worldSize];
    }

    /// <summary>Bytes that this rank has made readable for others or written to their memory since it joined.</summary>
    public long BytesSent { get; private set; }

    public void AllReduce(in CallSignature signature, CollectiveCall call)
    {
        nint bytes = (nint)call.Count * call.ElementSize;
        (int Region, long Offset) place = bytes > OneShotBytes ? regions.Find(call.Output, bytes) : (-1, 0);
        if (place.Region >= 0)
        {
            AllReduceShared(signature, call, place);
        }
        else if (bytes <= OneShotBytes)
        {
            AllReduceOneShot(signature, call, (int)bytes);
        }
        else
        {
            AllReduceStaged(signature, call);
        }
    }

    public void Barrier(in CallSignature signature)
    {
        Announce(signature, -1, 0);
        ArriveCopied();
        Agree();
    }

    /// <summary>Each rank contributes <c>counts[rank]</c> elements; all ranks end with all of them, in rank order.</summary>
    public void AllGather(in CallSignature signature, CollectiveCall call)
    {
        long[] counts = call.SendCounts;
        int size = call.ElementSize;
        nint mine = (nint)counts[rank] * size;
        long longest = 0;
        foreach (long count in counts) longest = Math.Max(longest, count * size);
        nint own = 0;
        for (int r = 0; r < rank; r++) own += (nint)counts[r] * size;
        if (call.Output + own != call.Input) Copy(call.Output + own, call.Input, mine);
        Announce(signature, -1, 0);
        nint chunk = layout.StagingBytes;
        for (nint start = 0; start == 0 || start < longest; start += chunk)
        {
            nint length = Clamp(mine - start, chunk);
            byte* area = NextStaging(out long slot);
            Copy(area, call.Input + start, length);
            BytesSent += length;
            ArriveCopied();
            if (start == 0) Agree();
            nint offset = 0;
            for (int peer = 0; peer < worldSize; peer++)
            {
                nint theirs = (nint)counts[peer] * size;
                if (peer != rank)
                {
                    WaitCopied(peer, copied);
                    Copy(call.Output + offset + start, layout.Staging(segment, peer, slot), Clamp(theirs - start, chunk));
                }

                offset += theirs;
            }
        }
    }

    /// <summary>The root's buffer passes through its staging areas; the others copy it out.</summary>
    public void Broadcast(in CallSignature signature, CollectiveCall call)
    {
        nint bytes = (nint)call.Count * call.ElementSize;
        nint chunk = layout.StagingBytes;
        Announce(signature, -1, 0);
        for (nint start = 0; start == 0 || start < bytes; start += chunk)
        {
            nint length = Clamp(bytes - start, chunk);
            byte* area = NextStaging(out long slot);
            if (rank == call.Root)
            {
                Copy(area, call.Output + start, length);
                BytesSent += length;
            }

            ArriveCopied();
            if (start == 0) Agree();
            if (rank == call.Root) continue;
            WaitCopied(call.Root, copied);
            Copy(call.Output + start, layout.Staging(segment, call.Root, slot), length);
        }
    }

    /// <summary>Every rank ends with its part of the reduced whole; <paramref name="call"/>'s counts cut it.</summary>
    public void ReduceScatter(in CallSignature signature, CollectiveCall call)
    {
        int size = call.ElementSize;
        // A chunk takes the same range of every part, so that each chunk reduces a little of each rank's part.
        long perPart = Math.Max(1, layout.StagingBytes / size / worldSize);
        long longest = Partition.Length(call.Count, worldSize, 0);
        Announce(signature, -1, 0);
        for (long start = 0; start == 0 || start < longest; start += perPart)
        {
            byte* area = NextStaging(out long slot);
            for (int part = 0; part < worldSize; part++)
            {
                long length = Math.Clamp(Partition.Length(call.Count, worldSize, part) - start, 0, perPart);
                long from = Partition.Start(call.Count, worldSize, part) + start;
                if (part == rank) continue;
                Copy(area + (part * perPart * size), call.Input + (from * size), (nint)(length * size));
                BytesSent += length * size;
            }

            ArriveCopied();
            if (start == 0) Agree();
            long mine = Math.Clamp(Partition.Length(call.Count, worldSize, rank) - start, 0, perPart);
            for (int peer = 0; peer < worldSize; peer++)
            {
                if (peer != rank) WaitCopied(peer, copied);
                sources[peer] = peer == rank
                    ? (nint)(call.Input + ((Partition.Start(call.Count, worldSize, rank) + start) * size))
                    : (nint)(layout.Staging(segment, peer, slot) + (rank * perPart * size));
            }

            ReductionKernels.Reduce(
                call.Type, call.Operation, call.Output + (start * size), sources, (nint)mine, call.Divisor(worldSize));
        }
    }

    private void AllReduceOneShot(in CallSignature signature, CollectiveCall call, int bytes)
    {
        Announce(signature, -1, 0);
        byte* area = NextStaging(out long slot);
        Copy(area, call.Output, bytes);
        BytesSent += bytes;
        ArriveCopied();
        Agree();
        for (int peer = 0; peer < worldSize; peer++) sources[peer] = (nint)layout.Staging(segment, peer, slot);
        ReductionKernels.Reduce(
            call.Type, call.Operation, call.Output, sources, (nint)call.Count, call.Divisor(worldSize));
    }

    /// <summary>
    /// Chunk by chunk: copy the peers' slices in, reduce the own slice from all, copy the others' results out. The
    /// copy of the next chunk comes before the wait for this one, so that ranks seldom wait.
    /// </summary>
    private void AllReduceStaged(in CallSignature signature, CollectiveCall call)
    {
        int size = call.ElementSize;
        long perChunk = layout.StagingBytes / size;
        long chunks = (call.Count + perChunk - 1) / perChunk;
        int copiedBase = copied, reducedBase = reduced;
        long slotBase = staged;
        staged += chunks;
        Announce(signature, -1, 0);
        CopyIn(0);
        Agree();
        for (long chunk = 0; chunk < chunks; chunk++)
        {
            // The area of the next chunk was last read two chunks ago; a peer is done with it once it copied this one in.
            WaitAllCopied(copiedBase + (int)chunk + 1);
            if (chunk + 1 < chunks) CopyIn(chunk + 1);
            ReduceSlice(chunk);
            for (int step = 1; step < worldSize; step++)
            {
                int peer = (rank + step) % worldSize;
                WaitReduced(peer, reducedBase + (int)chunk + 1);
                (long start, long length) = Slice(chunk, peer);
                Copy(
                    call.Output + (start * size),
                    layout.Staging(segment, peer, slotBase + chunk) + ((start - (chunk * perChunk)) * size),
                    (nint)(length * size));
            }
        }

        // No barrier at the end: the next call fills only areas that all have read, as within this one.
        return;

        (long Start, long Length) Slice(long chunk, int owner)
        {
            long count = Math.Min(perChunk, call.Count - (chunk * perChunk));
            return ((chunk * perChunk) + Partition.Start(count, worldSize, owner), Partition.Length(count, worldSize, owner));
        }

        void CopyIn(long chunk)
        {
            byte* area = layout.Staging(segment, rank, slotBase + chunk);
            long first = chunk * perChunk;
            (long start, long length) = Slice(chunk, rank);
            long end = Math.Min(first + perChunk, call.Count);
            Copy(area, call.Output + (first * size), (nint)((start - first) * size));
            Copy(area + ((start + length - first) * size), call.Output + ((start + length) * size), (nint)((end - start - length) * size));
            BytesSent += (end - first - length) * size;
            ArriveCopied();
        }

        void ReduceSlice(long chunk)
        {
            (long start, long length) = Slice(chunk, rank);
            nint offset = (nint)((start - (chunk * perChunk)) * size);
            for (int peer = 0; peer < worldSize; peer++)
            {
                sources[peer] = peer == rank
                    ? (nint)(call.Output + (start * size))
                    : (nint)(layout.Staging(segment, peer, slotBase + chunk) + offset);
            }

            byte* result = call.Output + (start * size);
            ReductionKernels.Reduce(
                call.Type, call.Operation, result, sources, (nint)length, call.Divisor(worldSize));
            Copy(layout.Staging(segment, rank, slotBase + chunk) + offset, result, (nint)(length * size));
            BytesSent += length * size;
            ArriveReduced();
        }
    }

    /// <summary>Reduces the own slice of all ranks' buffers in place, and writes the result to all of them.</summary>
    private void AllReduceShared(in CallSignature signature, CollectiveCall call, (int Region, long Offset) place)
    {
        Announce(signature, place.Region, place.Offset);
        ArriveCopied();
        Agree();
        for (int peer = 0; peer < worldSize; peer++)
        {
            DirectCall* theirs = SharedLayout.Call(segment, peer, turn);
            if (theirs->Region != place.Region || theirs->Offset != place.Offset)
            {
                throw new CollectiveMismatchException(
                    $"ranks {members[rank]} and {members[peer]} passed different parts of their shared buffers to {signature}; "
                    + "all ranks have to pass the same slice of the same AllocateShared buffer, or all ordinary memory");
            }
        }

        regions.Resolve(place.Region, place.Offset, buffers);
        int size = call.ElementSize;
        long first = Partition.Start(call.Count, worldSize, rank);
        long count = Partition.Length(call.Count, worldSize, rank);
        long block = BlockBytes / size;
        for (long done = 0; done < count; done += block)
        {
            long length = Math.Min(block, count - done);
            nint offset = (nint)((first + done) * size);
            for (int peer = 0; peer < worldSize; peer++) sources[peer] = buffers[peer] + offset;
            byte* result = call.Output + offset;
            ReductionKernels.Reduce(
                call.Type, call.Operation, result, sources, (nint)length, call.Divisor(worldSize));
            for (int peer = 0; peer < worldSize; peer++)
            {
                if (peer != rank) Copy((byte*)sources[peer], result, (nint)(length * size));
            }
        }

        BytesSent += count * size * (worldSize - 1);
        ArriveReduced();
        for (int peer = 0; peer < worldSize; peer++) WaitReduced(peer, reduced);
    }

    /// <summary>Publishes the call, for <see cref="Agree"/> on the other ranks.</summary>
    private void Announce(in CallSignature signature, int region, long offset)
    {
        current = signature;
        turn++;
        DirectCall* call = SharedLayout.Call(segment, rank, turn);
        call->Signature = signature;
        call->Region = region;
        call->Offset = offset;
        patience.Progressed();
    }

    /// <summary>Waits until all ranks have come to this call, and checks that it is the same one.</summary>
    private void Agree()
    {
        int arrived = copied;
        for (int peer = 0; peer < worldSize; peer++)
        {
            if (peer == rank) continue;
            WaitCopied(peer, arrived);
            CallSignature theirs = SharedLayout.Call(segment, peer, turn)->Signature;
            if (!theirs.Equals(current))
            {
                throw new CollectiveMismatchException(
                    $"ranks disagree on the collective: rank {members[rank]} called {current}, rank {members[peer]} called {theirs}; "
                    + "all ranks have to make the same calls with the same arguments in the same order");
            }
        }
    }

    /// <summary>The staging area to fill next; its slot number is the same on all ranks.</summary>
    private byte* NextStaging(out long slot)
    {
        // With three areas in turn and every rank waiting for all at each chunk, the one from three chunks ago is free
        // once all have arrived at the last chunk.
        WaitAllCopied(copied);
        slot = staged++;
        return layout.Staging(segment, rank, slot);
    }

    private void ArriveCopied()
    {
        copied++;
        EventCount.Advance(SharedLayout.Copied(segment, rank));
    }

    private void ArriveReduced()
    {
        reduced++;
        EventCount.Advance(SharedLayout.Reduced(segment, rank));
    }

    private void WaitAllCopied(int value)
    {
        for (int peer = 0; peer < worldSize; peer++)
        {
            if (peer != rank) WaitCopied(peer, value);
        }
    }

    private void WaitCopied(int peer, int value) => WaitFor(SharedLayout.Copied(segment, peer), peer, value);

    private void WaitReduced(int peer, int value) => WaitFor(SharedLayout.Reduced(segment, peer), peer, value);

    private void WaitFor(EventCount* count, int peer, int value)
    {
        int now = EventCount.Read(count);
        if (now - value >= 0) return;
        while (now - value < 0)
        {
            int milliseconds = patience.Idle(peer);
            if (milliseconds > 0) EventCount.Sleep(count, now, milliseconds);
            now = EventCount.Read(count);
        }

        patience.Progressed();
    }

    private static nint Clamp(nint length, nint chunk) => Math.Clamp(length, 0, chunk);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Copy(byte* destination, byte* source, nint bytes)
    {
        if (bytes > 0) Buffer.MemoryCopy(source, destination, bytes, bytes);
    }
}

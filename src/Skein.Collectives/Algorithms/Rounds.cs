using Skein.Collectives.Transports;

namespace Skein.Collectives.Algorithms;

/// <summary>The collectives that proceed in rounds of one exchange each: ring, pairwise, linear and dissemination.</summary>
internal static unsafe class Rounds
{
    /// <summary>Ring all-gather: N - 1 steps, each rank passes on what it got. The counts may differ from rank to rank.</summary>
    public static void AllGather(Links links, CollectiveCall call)
    {
        int n = links.WorldSize, rank = links.Rank, size = call.ElementSize;
        long[] counts = call.SendCounts;
        byte* own = Address(rank);
        if (own != call.Input) Copy(own, call.Input, Length(rank));
        for (int step = 0; step < n - 1; step++)
        {
            int sends = (rank - step + n) % n, receives = (rank - step - 1 + n) % n;
            links.Exchange((rank + 1) % n, Address(sends), Length(sends), (rank + n - 1) % n, Address(receives), Length(receives));
        }

        nint Length(int part) => (nint)(counts[part] * size);

        byte* Address(int part)
        {
            long start = 0;
            for (int r = 0; r < part; r++) start += counts[r];
            return call.Output + (start * size);
        }
    }

    /// <summary>Ring reduce-scatter: N - 1 steps; the partial sum of each part travels to the rank that keeps it.</summary>
    public static void ReduceScatter(Links links, CollectiveCall call, int divisor)
    {
        int n = links.WorldSize, rank = links.Rank, size = call.ElementSize;
        nint longest = (nint)(Partition.Length(call.Count, n, 0) * size);
        byte* partial = links.Workspace(2 * longest), next = partial + longest;
        Copy(partial, Address((rank + n - 1) % n), Length((rank + n - 1) % n));
        for (int step = 0; step < n - 1; step++)
        {
            int sends = (rank - step - 1 + n) % n, receives = (rank - step - 2 + (2 * n)) % n;
            bool last = step == n - 2;
            byte* target = last ? call.Output : next;
            if (target != Address(receives)) Copy(target, Address(receives), Length(receives));
            links.ExchangeReduce(
                (rank + 1) % n, partial, Length(sends), (rank + n - 1) % n, target, Length(receives), call, last ? divisor : 1);
            byte* spent = partial;
            partial = next;
            next = spent;
        }

        nint Length(int part) => (nint)(Partition.Length(call.Count, n, part) * size);

        byte* Address(int part) => call.Input + (Partition.Start(call.Count, n, part) * size);
    }

    /// <summary>Pairwise all-to-all: in step s each rank sends to the rank s to its right and receives from s to its left.</summary>
    public static void AllToAll(Links links, CollectiveCall call)
    {
        int n = links.WorldSize, rank = links.Rank, size = call.ElementSize;
        for (int step = 0; step < n; step++)
        {
            int to = (rank + step) % n, from = (rank + n - step) % n;
            byte* source = call.Input + Offset(call.SendCounts, to), target = call.Output + Offset(call.ReceiveCounts, from);
            nint sends = (nint)(call.SendCounts[to] * size), receives = (nint)(call.ReceiveCounts[from] * size);
            if (call.Layout != 0) links.Agree(call.SendCounts[to], call.ReceiveCounts[from]);
            if (step == 0) Copy(target, source, sends);
            else links.Exchange(to, source, sends, from, target, receives);
        }

        nint Offset(long[] counts, int part)
        {
            long start = 0;
            for (int r = 0; r < part; r++) start += counts[r];
            return (nint)(start * size);
        }
    }

    /// <summary>Linear gather: the root receives from one rank after the other.</summary>
    public static void Gather(Links links, CollectiveCall call)
    {
        nint bytes = (nint)(call.Count * call.ElementSize);
        if (links.Rank != call.Root)
        {
            links.Send(call.Root, call.Input, bytes);
            return;
        }

        for (int peer = 0; peer < links.WorldSize; peer++)
        {
            byte* target = call.Output + (peer * bytes);
            if (peer != call.Root) links.Receive(peer, target, bytes);
            else if (target != call.Input) Copy(target, call.Input, bytes);
        }
    }

    /// <summary>Linear scatter: the root sends to one rank after the other.</summary>
    public static void Scatter(Links links, CollectiveCall call)
    {
        nint bytes = (nint)(call.Count * call.ElementSize);
        if (links.Rank != call.Root)
        {
            links.Receive(call.Root, call.Output, bytes);
            return;
        }

        for (int peer = 0; peer < links.WorldSize; peer++)
        {
            byte* source = call.Input + (peer * bytes);
            if (peer != call.Root) links.Send(peer, source, bytes);
            else if (source != call.Output) Copy(call.Output, source, bytes);
        }
    }

    /// <summary>Dissemination barrier (Hensgen, Finkel and Manber 1988): log2 N rounds of empty messages.</summary>
    public static void Barrier(Links links)
    {
        int n = links.WorldSize;
        for (int distance = 1; distance < n; distance <<= 1)
        {
            links.Exchange((links.Rank + distance) % n, null, 0, (links.Rank + n - distance) % n, null, 0);
        }
    }

    public static void Copy(byte* destination, byte* source, nint bytes) =>
        Buffer.MemoryCopy(source, destination, bytes, bytes);
}

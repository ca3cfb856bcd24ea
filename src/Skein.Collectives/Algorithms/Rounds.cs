using Skein.Collectives.Transports;

namespace Skein.Collectives.Algorithms;

/// <summary>The collectives that proceed in rounds of one exchange each: ring, linear and dissemination; or with all others at once.</summary>
internal static unsafe class Rounds
{
    // Up to here it is the network's delay that counts; beyond it, how many streams share a host's line, and connections.
    private const nint LargestAtOnce = 256 * 1024;
    private const int MostAtOnce = 64;

    /// <summary>
    /// All-gather. Small parts of up to 64 ranks go from each to all others at once; else around a ring, in N - 1 steps in which
    /// each rank passes on what it got. The counts may differ from rank to rank.
    /// </summary>
    public static void AllGather(Links links, CollectiveCall call)
    {
        int n = links.WorldSize, rank = links.Rank, size = call.ElementSize;
        long[] counts = call.SendCounts;
        byte* own = Address(rank);
        if (own != call.Input) Copy(own, call.Input, Length(rank));
        if (n <= MostAtOnce && counts.Max() * size <= LargestAtOnce)
        {
            AtOnce(links, call, counts, own);
            return;
        }

        for (int step = 0; step < n - 1; step++)
        {
            int sends = (rank - step + n) % n, receives = (rank - step - 1 + n) % n;
            links.Exchange((rank + 1) % n, Address(sends), Length(sends), (rank + n - 1) % n, Address(receives), Length(receives));
        }

        nint Length(int part) => (nint)(counts[part] * size);

        byte* Address(int part) => call.Output + Offset(call, counts, part);
    }

    /// <summary>Ring reduce-scatter: N - 1 steps; the partial sum of each part travels to the rank that keeps it.</summary>
    public static void ReduceScatter(Links links, CollectiveCall call)
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
                (rank + 1) % n, partial, Length(sends), (rank + n - 1) % n, target, Length(receives), call, 1, step + 1);
            byte* spent = partial;
            partial = next;
            next = spent;
        }

        nint Length(int part) => (nint)(Partition.Length(call.Count, n, part) * size);

        byte* Address(int part) => call.Input + (Partition.Start(call.Count, n, part) * size);
    }

    /// <summary>All-to-all: every rank exchanges with all others at once.</summary>
    public static void AllToAll(Links links, CollectiveCall call)
    {
        int rank = links.Rank;
        Copy(call.Output + Offset(call, call.ReceiveCounts, rank), call.Input + Offset(call, call.SendCounts, rank), (nint)(call.SendCounts[rank] * call.ElementSize));
        AtOnce(links, call, call.ReceiveCounts, same: null);
    }

    /// <summary>Sends to every rank <paramref name="same"/>, this rank's part, or if it is null that rank's part of the input.</summary>
    private static void AtOnce(Links links, CollectiveCall call, long[] receiveCounts, byte* same)
    {
        int n = links.WorldSize, rank = links.Rank, size = call.ElementSize;
        Links.Stream* outgoing = stackalloc Links.Stream[n - 1], arriving = stackalloc Links.Stream[n - 1];
        for (int step = 1; step < n; step++)
        {
            int to = (rank + step) % n, from = (rank + n - step) % n;
            outgoing[step - 1] = same is null
                ? new Links.Stream(to, call.Input + Offset(call, call.SendCounts, to), (nint)(call.SendCounts[to] * size))
                : new Links.Stream(to, same, (nint)(call.SendCounts[rank] * size));
            arriving[step - 1] = new Links.Stream(from, call.Output + Offset(call, receiveCounts, from), (nint)(receiveCounts[from] * size));
        }

        bool differ = same is null && call.Layout != 0;
        links.ExchangeAll(new Span<Links.Stream>(outgoing, n - 1), new Span<Links.Stream>(arriving, n - 1), differ ? call.SendCounts : null, differ ? receiveCounts : null);
    }

    private static nint Offset(CollectiveCall call, long[] counts, int part)
    {
        long start = 0;
        for (int r = 0; r < part; r++) start += counts[r];
        return (nint)(start * call.ElementSize);
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

using System.Numerics;
using Skein.Collectives.Transports;

namespace Skein.Collectives.Algorithms;

/// <summary>Binomial trees: log2 N steps from the leaves to the root, or back. The ranks are numbered from the root.</summary>
internal static unsafe class Tree
{
    /// <summary>Reduce to the first rank, then broadcast from it: the fewest messages for short buffers.</summary>
    public static void AllReduce(Links links, CollectiveCall call, int[] ranks)
    {
        Reduce(links, call, ranks, 0);
        Broadcast(links, call, ranks, 0);
    }

    /// <summary>Reduces into the root's output; the other ranks' outputs are left with partial results.</summary>
    public static void Reduce(Links links, CollectiveCall call, int[] ranks, int root)
    {
        int n = ranks.Length;
        int me = (Array.IndexOf(ranks, links.Rank) + n - root) % n;
        nint bytes = (nint)(call.Count * call.ElementSize);
        for (int mask = 1; mask < n; mask <<= 1)
        {
            if ((me & mask) != 0)
            {
                links.Send(ranks[(me - mask + root) % n], call.Output, bytes);
                return;
            }

            if (me + mask >= n) continue;
            links.ExchangeReduce(
                -1, null, 0, ranks[(me + mask + root) % n], call.Output, bytes, call, mask, Math.Min(mask, n - me - mask));
        }
    }

    /// <summary>Broadcasts the root's output. Pieces go on to the children as they arrive from the parent.</summary>
    public static void Broadcast(Links links, CollectiveCall call, int[] ranks, int root)
    {
        int n = ranks.Length;
        int me = (Array.IndexOf(ranks, links.Rank) + n - root) % n;
        nint bytes = (nint)(call.Count * call.ElementSize);
        nint piece = links.PieceBytes;
        int parentBit = me == 0 ? 1 << (BitOperations.Log2((uint)n) + 1) : me & -me;
        int parent = me == 0 ? -1 : ranks[(me - parentBit + root) % n];
        Span<Links.Stream> children = stackalloc Links.Stream[32];
        int count = 0;
        for (int mask = parentBit >> 1; mask > 0; mask >>= 1)
        {
            if (me + mask < n) children[count++] = new Links.Stream(ranks[(me + mask + root) % n], call.Output, bytes);
        }

        var arriving = new Links.Stream(parent, call.Output, bytes);
        foreach (ref Links.Stream child in children[..count]) links.Prepare(child.Peer);
        while (true)
        {
            bool moved = links.Receive(ref arriving);
            bool received = links.Received(arriving);
            nint available = received ? bytes : arriving.Done / piece * piece;
            bool done = received;
            int blocked = -1;
            foreach (ref Links.Stream child in children[..count])
            {
                moved |= links.Send(ref child, available);
                if (links.Sent(child)) continue;
                done = false;
                if (child.Done < available) blocked = child.Peer;
            }

            if (done) return;
            if (moved) links.Progressed();
            else links.Idle(blocked, received ? -1 : parent);
        }
    }
}

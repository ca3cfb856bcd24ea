using System.Numerics;
using Skein.Collectives.Transports;

namespace Skein.Collectives.Algorithms;

/// <summary>
/// Recursive halving and doubling (Thakur, Rabenseifner and Gropp 2005): log2 N exchanges in which partners halve
/// what they are responsible for, and log2 N more to collect the results. Short buffers are exchanged whole in
/// log2 N steps instead (recursive doubling). Where N is no power of two, the ranks beyond it fold into a neighbour.
/// </summary>
internal static unsafe class HalvingDoublingAllReduce
{
    /// <summary>Up to this many bytes a step costs its latency rather than its bytes.</summary>
    private const int WholeExchangeBytes = 16 * 1024;

    public static void Run(Links links, CollectiveCall call)
    {
        int n = links.WorldSize, rank = links.Rank;
        int power = 1 << BitOperations.Log2((uint)n);
        int folded = n - power;
        nint bytes = (nint)(call.Count * call.ElementSize);

        // The first 2 × folded ranks pair up: the even ones hand their values to the odd ones and wait for the result.
        if (rank < 2 * folded && rank % 2 == 0)
        {
            links.Send(rank + 1, call.Output, bytes);
            links.Receive(rank + 1, call.Output, bytes);
            return;
        }

        int position = rank < 2 * folded ? rank / 2 : rank - folded;
        if (rank < 2 * folded) links.ExchangeReduce(-1, null, 0, rank - 1, call.Output, bytes, call, 1, 1);
        if (bytes <= WholeExchangeBytes) Whole(links, call, position, power, folded);
        else Halves(links, call, position, power, folded);
        if (rank < 2 * folded) links.Send(rank - 1, call.Output, bytes);
    }

    private static void Whole(Links links, CollectiveCall call, int position, int power, int folded)
    {
        nint bytes = (nint)(call.Count * call.ElementSize);
        byte* theirs = links.Workspace(WholeExchangeBytes);
        for (int mask = 1; mask < power; mask <<= 1)
        {
            int partner = RankOf(position ^ mask, folded);
            links.Exchange(partner, call.Output, bytes, partner, theirs, bytes);
            links.Accumulate(call, call.Output, theirs, bytes, Held(position), Held(position ^ mask));

            // The block of mask positions that have exchanged so far.
            int Held(int member) => mask + Math.Clamp(folded - (member & -mask), 0, mask);
        }
    }

    private static void Halves(Links links, CollectiveCall call, int position, int power, int folded)
    {
        int size = call.ElementSize;
        int depth = BitOperations.Log2((uint)power);
        Span<(long Low, long High)> ranges = stackalloc (long, long)[depth + 1];
        ranges[0] = (0, call.Count);
        for (int level = 0; level < depth; level++)
        {
            int mask = power >> (level + 1);
            int partner = RankOf(position ^ mask, folded);
            (long low, long high) = ranges[level];
            long middle = low + ((high - low) / 2);
            bool keepsLow = (position & mask) == 0;
            (long Low, long High) kept = keepsLow ? (low, middle) : (middle, high);
            (long Low, long High) given = keepsLow ? (middle, high) : (low, middle);
            links.ExchangeReduce(
                partner, call.Output + (given.Low * size), (nint)((given.High - given.Low) * size),
                partner, call.Output + (kept.Low * size), (nint)((kept.High - kept.Low) * size),
                call, Held(position), Held(position ^ mask));
            ranges[level + 1] = kept;

            // Those a multiple of 2 × mask apart have exchanged so far.
            int Held(int member)
            {
                int apart = 2 * mask, first = member % apart;
                return (power / apart) + ((Math.Max(0, folded - first) + apart - 1) / apart);
            }
        }

        for (int level = depth - 1; level >= 0; level--)
        {
            int partner = RankOf(position ^ (power >> (level + 1)), folded);
            (long Low, long High) mine = ranges[level + 1], whole = ranges[level];
            bool keepsLow = (position & (power >> (level + 1))) == 0;
            (long Low, long High) theirs = keepsLow ? (mine.High, whole.High) : (whole.Low, mine.Low);
            links.Exchange(
                partner, call.Output + (mine.Low * size), (nint)((mine.High - mine.Low) * size),
                partner, call.Output + (theirs.Low * size), (nint)((theirs.High - theirs.Low) * size));
        }
    }

    private static int RankOf(int position, int folded) => position < folded ? (position * 2) + 1 : position + folded;
}

using Skein.Collectives.Transports;

namespace Skein.Collectives.Algorithms;

/// <summary>
/// All-reduce in two levels: a binomial tree inside each host reduces to the host's first rank, these leaders
/// all-reduce around a ring, and a tree inside each host broadcasts. Only 2(H - 1)/H of the buffer per host crosses
/// the network, however many ranks a host has.
/// </summary>
internal static class Hierarchical
{
    /// <param name="links">The streams of this call.</param>
    /// <param name="call">The buffer to reduce in place is its output.</param>
    /// <param name="hosts">The ranks of each host, in rank order.</param>
    public static void AllReduce(Links links, CollectiveCall call, int[][] hosts)
    {
        int[] mine = Array.Find(hosts, host => host.Contains(links.Rank))!;
        Tree.Reduce(links, call, mine, 0);
        if (hosts.Length > 1 && mine[0] == links.Rank)
        {
            int[] leaders = Array.ConvertAll(hosts, static host => host[0]), held = Array.ConvertAll(hosts, static host => host.Length);
            RingAllReduce.Run(links, call, leaders, held);
        }

        Tree.Broadcast(links, call, mine, 0);
    }
}

using System.Globalization;
using System.Numerics;

namespace Skein.Training.Decentralized;

/// <summary>The shape of the graph over which peers talk.</summary>
public enum GossipTopologyKind
{
    /// <summary>Each peer and its two neighbours on a circle.</summary>
    Ring,

    /// <summary>A torus, as square as the number of peers allows; for a prime number of peers a ring.</summary>
    Grid,

    /// <summary>Each peer i and i ± 2^k (Ying et al. 2021, "Exponential graph is provably efficient for decentralized deep training").</summary>
    Exponential,

    /// <summary>A connected random graph in which every peer has equally many neighbours.</summary>
    Random,

    /// <summary>Everyone and everyone.</summary>
    Complete,
}

/// <summary>Who talks to whom. Immutable; the same on every peer.</summary>
public sealed record GossipTopology
{
    private const string Choices = "ring, grid, exponential, random:DEGREE or complete";

    private GossipTopology(GossipTopologyKind kind, int degree = 0) => (Kind, Degree) = (kind, degree);

    /// <summary>The default: the fewest links.</summary>
    public static GossipTopology Ring { get; } = new(GossipTopologyKind.Ring);

    /// <summary>The shape.</summary>
    public GossipTopologyKind Kind { get; }

    /// <summary>The neighbours of each peer of a random graph; 0 for other shapes, where it follows from the number of peers.</summary>
    public int Degree { get; }

    /// <summary>Reads <c>ring</c>, <c>grid</c>, <c>exponential</c>, <c>random:DEGREE</c> or <c>complete</c>.</summary>
    /// <exception cref="FormatException">It is none of these; names the value and the choices.</exception>
    public static GossipTopology Parse(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        switch (text)
        {
            case "ring": return Ring;
            case "grid": return new GossipTopology(GossipTopologyKind.Grid);
            case "exponential": return new GossipTopology(GossipTopologyKind.Exponential);
            case "complete": return new GossipTopology(GossipTopologyKind.Complete);
        }

        const string Prefix = "random:";
        if (text.StartsWith(Prefix, StringComparison.Ordinal)
            && int.TryParse(text.AsSpan(Prefix.Length), NumberStyles.None, CultureInfo.InvariantCulture, out int degree) && degree >= 1)
        {
            return new GossipTopology(GossipTopologyKind.Random, degree);
        }

        throw new FormatException($"unknown topology '{text}': give {Choices}, with a whole number from 1 as DEGREE");
    }

    /// <summary>As <see cref="Parse"/> reads it.</summary>
    public override string ToString() => Kind == GossipTopologyKind.Random
        ? string.Create(CultureInfo.InvariantCulture, $"random:{Degree}")
        : Kind.ToString().ToLowerInvariant();

    /// <summary>Checks that there is such a graph of <paramref name="peers"/> peers.</summary>
    /// <exception cref="ArgumentException">There is none; says why.</exception>
    public void Validate(int peers)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(peers, 1);
        if (Kind != GossipTopologyKind.Random || peers == 1) return;
        if (Degree >= peers) throw new ArgumentException($"the topology is {this}, but each of {peers} peers has only {peers - 1} others: give a degree from 1 to {peers - 1}");
        if (Degree * (long)peers % 2 != 0) throw new ArgumentException($"the topology is {this}, but {peers} peers with {Degree} neighbours each make {Degree * (long)peers} ends of links, an odd number: give an even degree, or an even number of peers");
        if (Degree == 1 && peers > 2) throw new ArgumentException($"the topology is {this}, but {peers} peers with one neighbour each are not connected: give a degree from 2");
    }

    /// <summary>
    /// The neighbours of every peer, without itself: symmetric and connected. They are ordered by how far they are ahead
    /// on the circle of ranks, so that in the regular shapes taking everyone's k-th neighbour reaches every peer once.
    /// </summary>
    /// <param name="peers">How many peers there are, 1 or more.</param>
    /// <param name="seed">Draws the random graph; the same on every peer.</param>
    /// <exception cref="ArgumentException">There is no such graph.</exception>
    public IReadOnlyList<IReadOnlyList<int>> Neighbours(int peers, long seed)
    {
        Validate(peers);
        if (peers == 1) return [Array.Empty<int>()];
        HashSet<int>[] graph = Kind == GossipTopologyKind.Random ? RegularGraph.Create(peers, Degree, seed) : FromOffsets(peers);
        return [.. graph.Select((others, peer) => others.OrderBy(other => (other - peer + peers) % peers).ToArray())];
    }

    /// <summary>
    /// To whom <paramref name="peer"/> pushes at time <paramref name="step"/>: each to one other, another one each time.
    /// On the exponential graph that is peer + 2^(t mod ⌈log₂ n⌉) (Assran et al. 2019, appendix A).
    /// </summary>
    /// <param name="peer">Who pushes.</param>
    /// <param name="step">The time, from 0.</param>
    /// <param name="peers">How many peers there are, 2 or more.</param>
    /// <param name="neighbours">This peer's of <see cref="Neighbours"/>.</param>
    public int OutNeighbour(int peer, long step, int peers, IReadOnlyList<int> neighbours)
    {
        ArgumentNullException.ThrowIfNull(neighbours);
        if (Kind != GossipTopologyKind.Exponential) return neighbours[(int)(step % neighbours.Count)];
        return (peer + (1 << (int)(step % LogTwo(peers)))) % peers;
    }

    private static int LogTwo(int peers) => Math.Max(1, 32 - BitOperations.LeadingZeroCount((uint)(peers - 1)));

    private HashSet<int>[] FromOffsets(int peers)
    {
        int rows = Enumerable.Range(1, peers).Last(rows => peers % rows == 0 && rows * (long)rows <= peers);
        int columns = peers / rows;
        var graph = new HashSet<int>[peers];
        for (int peer = 0; peer < peers; peer++)
        {
            (int row, int column) = Math.DivRem(peer, columns);
            IEnumerable<int> others = Kind switch
            {
                GossipTopologyKind.Ring => [peer + 1, peer + peers - 1],
                GossipTopologyKind.Grid =>
                [
                    (row * columns) + ((column + 1) % columns), (row * columns) + ((column + columns - 1) % columns),
                    ((row + 1) % rows * columns) + column, ((row + rows - 1) % rows * columns) + column,
                ],
                GossipTopologyKind.Exponential => Enumerable.Range(0, LogTwo(peers)).SelectMany(power => new[] { peer + (1 << power), peer + peers - (1 << power) }),
                _ => Enumerable.Range(0, peers),
            };
            graph[peer] = [.. others.Select(other => other % peers).Where(other => other != peer)];
        }

        return graph;
    }
}

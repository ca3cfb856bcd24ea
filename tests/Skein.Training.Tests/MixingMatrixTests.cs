using Skein.Training.Decentralized;

namespace Skein.Training.Tests;

/// <summary>Graphs and their weights, against their definitions and closed forms.</summary>
public class MixingMatrixTests
{
    public static TheoryData<string, int> Graphs
    {
        get
        {
            var graphs = new TheoryData<string, int>();
            for (int peers = 1; peers <= 17; peers++)
            {
                foreach (string topology in new[] { "ring", "grid", "exponential", "complete" }) graphs.Add(topology, peers);
                for (int degree = 2; degree < peers; degree++)
                {
                    if (degree * peers % 2 == 0) graphs.Add($"random:{degree}", peers);
                }
            }

            return graphs;
        }
    }

    [Theory]
    [MemberData(nameof(Graphs))]
    public void Graphs_are_symmetric_and_connected_and_their_weights_doubly_stochastic(string topology, int peers)
    {
        IReadOnlyList<IReadOnlyList<int>> graph = GossipTopology.Parse(topology).Neighbours(peers, seed: 7);
        HashSet<int>[] sets = [.. graph.Select(static others => others.ToHashSet())];
        Assert.True(RegularGraph.IsConnected(sets));
        for (int i = 0; i < peers; i++)
        {
            Assert.Equal(graph[i].Count, sets[i].Count);
            Assert.DoesNotContain(i, graph[i]);
            Assert.All(graph[i], other => Assert.Contains(i, graph[other]));
            // Only a degree that was asked for, or that follows from the shape.
            if (topology.StartsWith("random:", StringComparison.Ordinal)) Assert.Equal(int.Parse(topology.AsSpan(7)), graph[i].Count);
            if (topology == "complete") Assert.Equal(peers - 1, graph[i].Count);
        }

        MixingMatrix mixing = MixingMatrix.MetropolisHastings(graph);
        for (int i = 0; i < peers; i++)
        {
            double row = 0, column = 0;
            for (int j = 0; j < peers; j++)
            {
                row += mixing[i, j];
                column += mixing[j, i];
                Assert.True(mixing[i, j] >= 0);
                Assert.Equal(mixing[i, j], mixing[j, i]);
            }

            Assert.Equal(1, row, 1e-12);
            Assert.Equal(1, column, 1e-12);
        }

        Assert.InRange(mixing.SpectralGap(), 1e-9, 1 + 1e-9);
    }

    [Theory]
    [InlineData(3)]
    [InlineData(4)]
    [InlineData(5)]
    [InlineData(8)]
    [InlineData(16)]
    [InlineData(33)]
    public void The_gap_of_a_ring_is_that_of_a_circulant_matrix(int peers)
    {
        double largest = Enumerable.Range(1, peers - 1).Max(k => Math.Abs((1.0 / 3) + (2.0 / 3 * Math.Cos(2 * Math.PI * k / peers))));
        Assert.Equal(1 - largest, Gap("ring", peers), 1e-10);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(7)]
    [InlineData(16)]
    public void A_complete_graph_agrees_at_once(int peers) => Assert.Equal(1, Gap("complete", peers), 1e-10);

    [Theory]
    [InlineData(9, 3)]
    [InlineData(16, 4)]
    [InlineData(25, 5)]
    public void The_gap_of_a_square_torus_is_that_of_a_product_of_circles(int peers, int side)
    {
        // λ = 1/5 + 2/5 (cos a + cos b): the largest has one angle 0, the most negative both furthest.
        double largest = 0;
        for (int k = 0; k < side; k++)
        {
            for (int l = 0; l < side; l++)
            {
                if (k + l > 0) largest = Math.Max(largest, Math.Abs(0.2 + (0.4 * (Math.Cos(2 * Math.PI * k / side) + Math.Cos(2 * Math.PI * l / side)))));
            }
        }

        Assert.Equal(1 - largest, Gap("grid", peers), 1e-10);
    }

    [Theory]
    [InlineData(8)]
    [InlineData(11)]
    [InlineData(16)]
    public void The_gap_of_an_exponential_graph_is_that_of_a_circulant_matrix(int peers)
    {
        int[] offsets = [.. Enumerable.Range(0, (int)Math.Ceiling(Math.Log2(peers))).SelectMany(power => new[] { 1 << power, peers - (1 << power) }).Distinct()];
        double largest = Enumerable.Range(1, peers - 1).Max(k => Math.Abs((1 + offsets.Sum(offset => Math.Cos(2 * Math.PI * k * offset / peers))) / (offsets.Length + 1)));
        Assert.Equal(1 - largest, Gap("exponential", peers), 1e-10);
    }

    [Theory]
    [InlineData("ring", 8)]
    [InlineData("grid", 12)]
    [InlineData("random:3", 10)]
    [InlineData("exponential", 13)]
    public void Averaging_converges_at_least_as_fast_as_the_gap_says(string topology, int peers)
    {
        MixingMatrix mixing = MixingMatrix.MetropolisHastings(GossipTopology.Parse(topology).Neighbours(peers, 3));
        var random = new Random(5);
        double[] values = [.. Enumerable.Range(0, peers).Select(_ => random.NextDouble())];
        double mean = values.Average(), gap = mixing.SpectralGap(), before = Distance();
        for (int step = 0; step < 20; step++)
        {
            values = [.. Enumerable.Range(0, peers).Select(i => Enumerable.Range(0, peers).Sum(j => mixing[i, j] * values[j]))];
            double after = Distance();
            Assert.True(after <= ((1 - gap) * before) + 1e-15, $"step {step}: {after} after {before} with a gap of {gap}");
            before = after;
        }

        Assert.Equal(mean, values.Average(), 1e-13);

        double Distance() => Math.Sqrt(values.Sum(value => (value - mean) * (value - mean)));
    }

    [Theory]
    [InlineData(2)]
    [InlineData(5)]
    [InlineData(8)]
    [InlineData(12)]
    public void Regular_shapes_push_to_a_permutation_of_the_peers(int peers)
    {
        foreach (string text in new[] { "ring", "exponential", "complete" })
        {
            GossipTopology topology = GossipTopology.Parse(text);
            IReadOnlyList<IReadOnlyList<int>> graph = topology.Neighbours(peers, 0);
            for (int step = 0; step < 6; step++)
            {
                int[] targets = [.. Enumerable.Range(0, peers).Select(peer => topology.OutNeighbour(peer, step, peers, graph[peer]))];
                Assert.Equal(peers, targets.Distinct().Count());
                Assert.All(targets.Index(), entry => Assert.Contains(entry.Item, graph[entry.Index]));
            }
        }
    }

    [Theory]
    [InlineData("star", "unknown topology 'star': give ring, grid, exponential, random:DEGREE or complete, with a whole number from 1 as DEGREE")]
    [InlineData("random", "unknown topology 'random': ")]
    [InlineData("random:0", "unknown topology 'random:0': ")]
    [InlineData("random:x", "unknown topology 'random:x': ")]
    public void Unknown_topologies_are_refused(string text, string message) =>
        Assert.StartsWith(message, Assert.Throws<FormatException>(() => GossipTopology.Parse(text)).Message, StringComparison.Ordinal);

    [Theory]
    [InlineData("random:4", 4, "the topology is random:4, but each of 4 peers has only 3 others")]
    [InlineData("random:3", 5, "the topology is random:3, but 5 peers with 3 neighbours each make 15 ends of links, an odd number")]
    [InlineData("random:1", 4, "the topology is random:1, but 4 peers with one neighbour each are not connected")]
    public void Graphs_that_do_not_exist_are_refused(string text, int peers, string message) =>
        Assert.StartsWith(message, Assert.Throws<ArgumentException>(() => new GossipOptions { Topology = GossipTopology.Parse(text) }.Validate(peers)).Message, StringComparison.Ordinal);

    [Fact]
    public void Matrices_that_would_move_the_mean_are_refused()
    {
        Assert.StartsWith("the weights of row 0 add up to 0.9", Assert.Throws<ArgumentException>(() => new MixingMatrix(new[,] { { 0.5, 0.4 }, { 0.4, 0.6 } })).Message, StringComparison.Ordinal);
        Assert.StartsWith("peer 0 weighs peer 1 0.4", Assert.Throws<ArgumentException>(() => new MixingMatrix(new[,] { { 0.6, 0.4 }, { 0.5, 0.5 } })).Message, StringComparison.Ordinal);
        Assert.StartsWith("the weight of peer 0 at peer 0 is -0.5", Assert.Throws<ArgumentException>(() => new MixingMatrix(new[,] { { -0.5, 1.5 }, { 1.5, -0.5 } })).Message, StringComparison.Ordinal);
    }

    private static double Gap(string topology, int peers) =>
        MixingMatrix.MetropolisHastings(GossipTopology.Parse(topology).Neighbours(peers, 0)).SpectralGap();
}

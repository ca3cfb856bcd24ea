using Skein.Training.Decentralized;

namespace Skein.Training.Tests;

/// <summary>Push-sum over messages that come late, in any order, or back.</summary>
public class PushSumTests
{
    [Theory]
    [InlineData("ring", 5, 0)]
    [InlineData("exponential", 8, 3)]
    [InlineData("random:3", 6, 10)]
    public void Delayed_messages_leave_the_mass_and_bring_everyone_to_the_mean(string topology, int peers, int longestDelay)
    {
        const int Length = 7;
        GossipTopology shape = GossipTopology.Parse(topology);
        IReadOnlyList<IReadOnlyList<int>> graph = shape.Neighbours(peers, 2);
        var random = new Random(4);
        float[][] initial = [.. Enumerable.Range(0, peers).Select(_ => Enumerable.Range(0, Length).Select(_ => random.NextSingle()).ToArray())];
        PushSum[] sums = [.. initial.Select(static values => new PushSum(values))];
        var underWay = new List<(int Due, int To, float[] Values, double Weight)>();
        var estimate = new float[Length];
        for (int time = 0; time < 500; time++)
        {
            foreach ((int _, int to, float[] values, double weight) in underWay.Where(message => message.Due <= time)) sums[to].Receive(values, weight);
            underWay.RemoveAll(message => message.Due <= time);
            for (int peer = 0; peer < peers; peer++)
            {
                // Peers are of different speeds.
                if (time % (1 + (peer % 3)) != 0) continue;
                sums[peer].Fold(estimate);
                var half = new float[Length];
                if (sums[peer].Split(half) is not (> 0 and var weight)) continue;
                if (random.Next(5) == 0) sums[peer].Receive(half, weight);
                else underWay.Add((time + 1 + random.Next(longestDelay + 1), shape.OutNeighbour(peer, time, peers, graph[peer]), half, weight));
            }

            Assert.Equal(peers, sums.Sum(static sum => sum.Weight) + underWay.Sum(static message => message.Weight), 1e-9);
        }

        foreach (PushSum sum in sums)
        {
            sum.Fold(estimate);
            for (int i = 0; i < Length; i++) Assert.Equal(initial.Average(values => values[i]), estimate[i], 1e-4);
        }
    }

    [Fact]
    public void A_peer_that_receives_nothing_keeps_enough_weight()
    {
        var sum = new PushSum([2, 4]);
        var half = new float[2];
        Assert.Equal(0.5, sum.Split(half));
        Assert.Equal([1f, 2f], half);
        Assert.Equal(0, sum.Split(half));
        var estimate = new float[2];
        sum.Fold(estimate);
        Assert.Equal([2f, 4f], estimate);
    }

    [Fact]
    public void A_peer_whose_others_took_the_mass_along_can_share_again()
    {
        var sum = new PushSum([2, 4]);
        var half = new float[2];
        Assert.Equal(0.5, sum.Split(half));
        sum.Rescale();
        Assert.Equal(1, sum.Weight);
        Assert.Equal(0.5, sum.Split(half));
        Assert.Equal([1f, 2f], half);
    }

    [Fact]
    public void What_comes_before_a_beginning_counts_after_it()
    {
        var sum = new PushSum([2, 4]);
        sum.Receive([1, 1], 0.5);
        sum.Begin([4, 6]);
        var all = new float[2];
        Assert.Equal(1.5, sum.TakeAll(all));
        Assert.Equal([5f, 7f], all);
        Assert.Equal(0, sum.Weight);
    }
}

using Skein.Training.Data;
using static TorchSharp.torch;

namespace Skein.Training.Tests;

/// <summary>Data that ranks keep to themselves.</summary>
public class DataPartitionTests
{
    private static readonly long[] Labels = [.. Enumerable.Range(0, 1000).Select(static sample => (sample * 7L) % 10)];

    [Theory]
    [InlineData(0.001, 4)]
    [InlineData(0.1, 7)]
    [InlineData(1, 1)]
    [InlineData(100, 16)]
    [InlineData(0.01, 1000)]
    public void Every_sample_goes_to_one_rank_and_no_rank_without(double alpha, int ranks)
    {
        IReadOnlyList<IReadOnlyList<int>> shares = new DataPartition(alpha).Divide(Labels, ranks, seed: 3);
        Assert.Equal(ranks, shares.Count);
        Assert.All(shares, Assert.NotEmpty);
        Assert.Equal(Enumerable.Range(0, Labels.Length), shares.SelectMany(static share => share).Order());
        Assert.Equal(shares, new DataPartition(alpha).Divide(Labels, ranks, seed: 3));
    }

    [Fact]
    public void A_small_concentration_skews_and_a_large_one_does_not()
    {
        // The part of a rank's samples that its most frequent class is: 0.1 when all ten are equally frequent.
        Assert.InRange(Skew(10_000), 0.1, 0.13);
        Assert.InRange(Skew(0.05), 0.35, 1);
        Assert.True(Skew(0.05) > Skew(1) && Skew(1) > Skew(100));

        static double Skew(double alpha) => Enumerable.Range(0, 20).Average(seed => new DataPartition(alpha).Divide(Labels, 4, seed)
            .Average(share => share.GroupBy(sample => Labels[sample]).Max(group => group.Count()) / (double)share.Count));
    }

    [Theory]
    [InlineData(0.3)]
    [InlineData(5)]
    public void Shares_vary_as_the_Dirichlet_distribution_does(double alpha)
    {
        // Var = (1/k)(1 - 1/k) / (k α + 1); 4000 draws of 5 numbers put the estimate within a few per cent.
        const int Ranks = 5, Draws = 4000;
        double mean = 0, square = 0;
        for (int draw = 0; draw < Draws; draw++)
        {
            var random = new SplitMix64(9, draw);
            double[] shares = Dirichlet.Sample(alpha, Ranks, ref random);
            Assert.Equal(1, shares.Sum(), 1e-12);
            mean += shares.Sum() / (Draws * Ranks);
            square += shares.Sum(static share => share * share) / (Draws * Ranks);
        }

        double expected = 0.2 * 0.8 / ((Ranks * alpha) + 1);
        Assert.Equal(0.2, mean, 1e-12);
        Assert.InRange((square - 0.04) / expected, 0.93, 1.07);
    }

    [Theory]
    [InlineData("iid", null)]
    [InlineData("dirichlet:0.5", "dirichlet:0.5")]
    public void Texts_are_read(string text, string? expected) => Assert.Equal(expected, DataPartition.Parse(text)?.ToString());

    [Theory]
    [InlineData("dirichlet")]
    [InlineData("dirichlet:0")]
    [InlineData("dirichlet:-1")]
    [InlineData("dirichlet:NaN")]
    [InlineData("even")]
    public void Unknown_partitions_are_refused(string text) => Assert.Equal(
        $"unknown partition '{text}': give iid, or dirichlet:ALPHA with a number above 0", Assert.Throws<FormatException>(() => DataPartition.Parse(text)).Message);

    [Fact]
    public void A_rank_sees_only_its_own_samples_and_all_of_them_before_any_again()
    {
        using InMemoryDataset data = Models.Data(count: 100);
        var partition = new DataPartition(0.5);
        IReadOnlyList<IReadOnlyList<int>> shares = partition.Divide(data.Labels.data<long>().ToArray(), 3, seed: 1);
        for (int rank = 0; rank < 3; rank++)
        {
            var share = new OwnShare(partition, data, rank, 3, seed: 1);
            var sampler = new DistributedSampler(100, 12, rank, 3, seed: 1);
            var seen = new List<long>();
            for (int epoch = 0; epoch < 5; epoch++)
            {
                sampler.SetEpoch(epoch);
                long[] order = share.Arrange(sampler);
                for (int batch = 0; batch < sampler.BatchesPerEpoch; batch++)
                {
                    (int start, int count) = sampler.LocalSlice(batch);
                    seen.AddRange(order[start..(start + count)]);
                }
            }

            foreach (long[] pass in seen.Chunk(shares[rank].Count))
            {
                Assert.Equal(pass.Length, pass.Distinct().Count());
                Assert.Subset(shares[rank].Select(static sample => (long)sample).ToHashSet(), pass.ToHashSet());
            }
        }
    }

    [Fact]
    public void Labels_that_are_no_classes_are_refused()
    {
        using var data = new InMemoryDataset(zeros(10, 2), zeros(10, 1));
        string message = Assert.Throws<InvalidOperationException>(() => new OwnShare(new DataPartition(1), data, 0, 2, 0)).Message;
        Assert.StartsWith("the data cannot be divided by dirichlet:1: their labels are Float32 [10, 1], not one class", message, StringComparison.Ordinal);
    }
}

using FsCheck;
using FsCheck.Fluent;
using Skein.Training.Data;

namespace Skein.Training.Tests;

public class DistributedSamplerTests
{
    private static readonly Config Configuration = Config.QuickThrowOnFailure.WithMaxTest(300).WithReplay(20260101, 1);

    private static void ForAllShapes(Func<Shape, bool> property) =>
        Prop.ForAll(
            (from count in Gen.Choose(1, 300)
             from batch in Gen.Choose(1, 70)
             from world in Gen.Choose(1, 9)
             from epoch in Gen.Choose(0, 5)
             from seed in Gen.Choose(-1000, 1000)
             select new Shape(count, batch, world, epoch, seed)).ToArbitrary(),
            property).Check(Configuration);

    [Fact]
    public void Ranks_are_disjoint_and_cover_every_sample_once_an_epoch() => ForAllShapes(static shape =>
    {
        long[] all = [.. from rank in Enumerable.Range(0, shape.World)
                         let sampler = shape.Sampler(rank)
                         from batch in Enumerable.Range(0, sampler.BatchesPerEpoch)
                         from index in sampler.LocalIndices(batch).ToArray()
                         select index];
        Array.Sort(all);
        return all.SequenceEqual(Enumerable.Range(0, shape.Count).Select(static i => (long)i));
    });

    [Fact]
    public void A_global_batch_is_the_same_for_any_world_size() => ForAllShapes(static shape =>
    {
        DistributedSampler alone = (shape with { World = 1 }).Sampler(0);
        for (int batch = 0; batch < alone.BatchesPerEpoch; batch++)
        {
            long[] joined = [.. Enumerable.Range(0, shape.World).SelectMany(rank => shape.Sampler(rank).LocalIndices(batch).ToArray())];
            if (!joined.AsSpan().SequenceEqual(alone.LocalIndices(batch)) || joined.Length != alone.GlobalBatchSize(batch)) return false;
        }

        return true;
    });

    [Fact]
    public void Slices_of_a_batch_differ_by_one_sample_at_most_and_the_first_are_the_longer() => ForAllShapes(static shape =>
    {
        DistributedSampler[] samplers = [.. Enumerable.Range(0, shape.World).Select(shape.Sampler)];
        for (int batch = 0; batch < samplers[0].BatchesPerEpoch; batch++)
        {
            int[] counts = [.. samplers.Select(sampler => sampler.LocalSlice(batch).Count)];
            if (counts[0] - counts[^1] > 1 || !counts.SequenceEqual(counts.OrderDescending())) return false;
        }

        return true;
    });

    [Fact]
    public void Epochs_are_shuffled_differently_and_repeatably()
    {
        var sampler = new DistributedSampler(1000, 10, 0, 1, seed: 7);
        long[] first = sampler.Order.ToArray();
        sampler.SetEpoch(1);
        long[] second = sampler.Order.ToArray();
        sampler.SetEpoch(0);

        Assert.Equal(first, sampler.Order.ToArray());
        // A random permutation keeps one element in place on average; ten would be a one-in-ten-million event.
        Assert.InRange(first.Zip(second).Count(static pair => pair.First == pair.Second), 0, 10);
        Assert.NotEqual(first, new DistributedSampler(1000, 10, 0, 1, seed: 8).Order.ToArray());
    }

    [Fact]
    public void The_order_of_a_seed_never_changes()
    {
        var sampler = new DistributedSampler(10, 5, 0, 1, seed: 42);
        Assert.Equal(ExpectedOrderOfSeed42, sampler.Order.ToArray());
    }

    [Fact]
    public void Every_position_is_equally_likely()
    {
        // 6,000 shuffles of 6: each of the 36 (sample, position) pairs is expected 1,000 times, sigma 29.
        int[,] seen = new int[6, 6];
        var sampler = new DistributedSampler(6, 6, 0, 1, seed: 3);
        for (int epoch = 0; epoch < 6000; epoch++)
        {
            sampler.SetEpoch(epoch);
            for (int i = 0; i < 6; i++) seen[sampler.Order.Span[i], i]++;
        }

        foreach (int count in seen) Assert.InRange(count, 850, 1150);
    }

    [Fact]
    public void Without_shuffling_the_order_is_the_data_sets() =>
        Assert.Equal([0, 1, 2, 3, 4], new DistributedSampler(5, 2, 0, 1, shuffle: false).Order.ToArray());

    private static readonly long[] ExpectedOrderOfSeed42 = [1, 7, 2, 5, 6, 4, 0, 9, 8, 3];

    private sealed record Shape(int Count, int Batch, int World, int Epoch, int Seed)
    {
        public DistributedSampler Sampler(int rank)
        {
            var sampler = new DistributedSampler(Count, Batch, rank, World, Seed);
            sampler.SetEpoch(Epoch);
            return sampler;
        }
    }
}

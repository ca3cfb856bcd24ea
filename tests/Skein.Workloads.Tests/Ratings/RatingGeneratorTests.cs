using Skein.Training;
using Skein.Training.Data;
using Skein.Training.Embeddings;
using Skein.Workloads.Ratings;
using TorchSharp;
using static TorchSharp.torch;

namespace Skein.Workloads.Tests.Ratings;

public sealed class RatingGeneratorTests
{
    private static readonly RatingShape Large = new(Users: 10_000_000, Items: 1_000_000);

    [Fact]
    public void A_rating_depends_on_the_seed_and_its_place_alone()
    {
        using InMemoryDataset whole = new RatingGenerator(Large, seed: 4).Take(1_000, 300);
        using InMemoryDataset part = new RatingGenerator(Large, seed: 4).Take(1_100, 50);
        Assert.True(whole.Features[100..150].eq(part.Features).all().item<bool>());
        Assert.True(whole.Labels[100..150].eq(part.Labels).all().item<bool>());
        using InMemoryDataset other = new RatingGenerator(Large, seed: 5).Take(1_100, 50);
        Assert.False(other.Features.eq(part.Features).all().item<bool>());
    }

    [Fact]
    public void Indices_are_within_the_shape()
    {
        using InMemoryDataset data = new RatingGenerator(Large).Take(0, 20_000);
        Assert.Equal([20_000L, 6], data.Features.shape);
        Assert.Equal(ScalarType.Float32, data.Labels.dtype);
        long[] limits = [Large.Users, Large.Items, Large.Departments, Large.UserAges, Large.LectureAges, Large.Services];
        long[] largest = data.Features.amax([0]).data<long>().ToArray();
        Assert.Equal(0, data.Features.min().item<long>());
        Assert.All(limits.Zip(largest), pair => Assert.True(pair.Second < pair.First));
        Assert.All(limits[2..].Zip(largest[2..]), pair => Assert.Equal(pair.First - 1, pair.Second));
        // Half of ten million users have 87 % of what comes by an exponent of 0.8.
        Assert.InRange(data.Features.select(1, 0).gt(5_000_000).to(float32).mean().ToDouble(), 0.11, 0.15);
    }

    [Fact]
    public void Memory_is_that_of_the_batch_whatever_the_tables()
    {
        using (new RatingGenerator(Large).Take(0, 10)) { }
        long before = GC.GetAllocatedBytesForCurrentThread();
        using InMemoryDataset data = new RatingGenerator(Large).Take(0, 1_000);
        Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 4 * 1_000 * ((6 * 8) + 4));
    }

    [Fact]
    public void Ratings_have_the_planted_variance()
    {
        using InMemoryDataset data = new RatingGenerator(Large, userExponent: 0, itemExponent: 0, noise: 0.5).Take(0, 100_000);
        Assert.Equal(RatingGenerator.Mean, data.Labels.mean().ToDouble(), 0.02);
        // Two biases, the product, the noise.
        Assert.Equal(0.16 + 0.16 + 0.25 + 0.25, data.Labels.var().ToDouble(), 0.02);
    }

    [Fact]
    public async Task What_is_planted_can_be_learned()
    {
        var shape = new RatingShape(Users: 200, Items: 100);
        var generator = new RatingGenerator(shape, userExponent: 0.3, itemExponent: 0.3, noise: 0.5);
        using var data = new WorkloadData(generator.Take(0, 20_000), generator.Take(20_000, 4_000));
        random.manual_seed(1);
        using var model = new MatrixFactorization(shape, dimension: 6, RatingGenerator.Mean, LocalEmbedding.Create);
        using var optimizer = optim.SGD(model.parameters(), 2, weight_decay: 2e-4);
        var trainer = new Trainer(model, optimizer, Workload.Find("lecture-ratings")!.Loss) { BatchSize = 500 };
        await trainer.FitAsync(data.Train, 40);
        double rmse = Math.Sqrt((await trainer.EvaluateAsync(data.Test)).Loss);

        // Biases leave the product, of variance 0.25, and the noise.
        Assert.Equal(Math.Sqrt(0.25 + 0.25), RatingBaselines.Biases(data, shape), 0.04);
        Assert.InRange(rmse, generator.Noise, 0.6);
    }
}

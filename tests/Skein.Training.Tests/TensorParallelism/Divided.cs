using Skein.Collectives;
using Skein.Training.Gradients;
using Skein.Training.TensorParallelism;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.Tests.TensorParallelism;

/// <summary>Runs a module whole and divided, with a loss that has another gradient for each element of the output.</summary>
internal static class Divided
{
    /// <summary>What a pass leaves, as float32.</summary>
    internal sealed record Pass(Tensor Output, Tensor? InputGradient, IReadOnlyDictionary<string, Tensor> Gradients);

    public static ParallelRegion Region(ProcessGroup group, bool sequence = false) => new(new TensorCollectives(group), new BackwardFailure(), sequence);

    /// <summary>The part of a tensor that a rank has.</summary>
    public static Tensor Part(Tensor whole, int ranks, int rank, long dimension)
    {
        long length = whole.shape[dimension];
        return whole.narrow(dimension, Partition.Start(length, ranks, rank), Partition.Length(length, ranks, rank));
    }

    public static Pass Run(nn.Module<Tensor, Tensor> module, Tensor input, Tensor weights)
    {
        Tensor leaf = input.is_floating_point() ? input.clone().requires_grad_() : input;
        Tensor output = module.call(leaf);
        (output.to(float32) * weights).sum().backward();
        return new Pass(
            output.detach().to(float32), leaf.grad?.to(float32),
            module.named_parameters().ToDictionary(static entry => entry.name, static entry => entry.parameter.grad!.to(float32)));
    }

    /// <summary>Compares a divided module's pass on every rank with the whole one's.</summary>
    /// <param name="ranks">T.</param>
    /// <param name="make">The module.</param>
    /// <param name="plan">What it becomes.</param>
    /// <param name="input">Made when seeded.</param>
    /// <param name="tolerance">Relative to the largest element.</param>
    /// <param name="type">The module's element type.</param>
    public static async Task AssertEqualsWhole(
        int ranks, Func<nn.Module<Tensor, Tensor>> make, TensorParallelPlan plan, Func<Tensor> input, double tolerance = 1e-5, ScalarType type = ScalarType.Float32)
    {
        using var all = NewDisposeScope();
        Tensor features = Models.Seeded(2, input);
        if (features.is_floating_point()) features = features.to(type);
        nn.Module<Tensor, Tensor> whole = Models.Seeded(1, make).to(type);
        Tensor weights = Models.Seeded(3, () => randn_like(whole.call(features).detach().to(float32)));
        Pass expected = Run(whole, features, weights);
        bool sequence = plan.SequenceParallel && ranks > 1;
        await RankThreads.Run(ranks, group =>
        {
            using var scope = NewDisposeScope();
            using nn.Module<Tensor, Tensor> divided = Models.Seeded(1, make).to(type);
            ParallelRegion region = Region(group, plan.SequenceParallel);
            var partitioned = new PartitionedModel(divided, plan, region);
            Tensor Mine(Tensor tensor) => sequence ? Part(tensor, ranks, group.Rank, 1) : tensor;
            Pass actual = Run(divided, features.is_floating_point() ? Mine(features) : features, Mine(weights));
            AssertClose(Mine(expected.Output), actual.Output, tolerance, "output");
            if (expected.InputGradient is not null) AssertClose(Mine(expected.InputGradient), actual.InputGradient!, tolerance, "input's gradient");
            Assert.Equal(expected.Gradients.Keys.Order(), actual.Gradients.Keys.Order());
            foreach ((string name, Tensor gradient) in expected.Gradients)
            {
                Parameter parameter = divided.named_parameters().Single(entry => entry.name == name).parameter;
                ParameterPartition? partition = partitioned.PartitionOf(name);
                Assert.Equal(partition is not null, partitioned.IsDivided(parameter));
                Tensor mine = actual.Gradients[name];
                if (partitioned.IsSliced(parameter)) mine = region.Collectives.AllReduce(mine);
                AssertClose(partition is { } parts ? Part(gradient, ranks, group.Rank, parts.Dimension) : gradient, mine, tolerance, name);
            }

            region.Collectives.Dispose();
            return 0;
        });
    }

    public static void AssertClose(Tensor expected, Tensor actual, double tolerance, string what)
    {
        Assert.Equal(expected.shape, actual.shape);
        double allowed = tolerance * Math.Max(expected.abs().max().ToDouble(), 1e-3);
        double difference = (expected - actual).abs().max().ToDouble();
        Assert.True(difference <= allowed, $"{what}: off by {difference}, allowed {allowed}");
    }
}

using Skein.Collectives;
using Skein.Training.Compression;
using Skein.Training.Data;
using Skein.Training.Meshes;
using Skein.Training.TensorParallelism;
using Skein.Training.Tests.Pipeline;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.Tests.Compression;

/// <summary>Compression between the copies of a model that other ranks divide.</summary>
public class CompressedMeshTests
{
    private const int Steps = 24;

    private sealed record Outcome(IReadOnlyList<float> Losses, float[] Parameters, float[] Local, CompressionStatistics Statistics, long Skipped);

    private static async Task<Outcome> Train(Strategy strategy, DataParallel? copies, Func<nn.Module<Tensor, Tensor>> make, Func<InMemoryDataset> samples, int microBatches = 1)
    {
        using (strategy)
        {
            using InMemoryDataset data = samples();
            using nn.Module<Tensor, Tensor> model = Models.Seeded(1, make);
            var trainer = new Trainer(model, static parameters => optim.SGD(parameters, 0.05, momentum: 0.9), Models.CrossEntropy)
            {
                Strategy = strategy,
                BatchSize = 24,
                GradientAccumulation = microBatches,
                MaxSteps = Steps,
                Seed = 3,
            };
            TrainingReport report = await trainer.FitAsync(data, epochs: 1000);
            trainer.Optimizer!.Dispose();
            using var scope = NewDisposeScope();
            float[] whole = [.. strategy.FullParameters(model).SelectMany(static entry => entry.Value.detach().data<float>().ToArray())];
            return new Outcome(report.LossHistory, whole, Models.Parameters(model), copies?.CompressionStatistics ?? default, copies?.SkippedSteps ?? 0);
        }
    }

    private static Task<Outcome[]> OnMesh(
        MeshShape shape, string rules, Func<DeviceMesh, DataParallel, Strategy> around, Func<ProcessGroup, nn.Module<Tensor, Tensor>> make, Func<InMemoryDataset> samples, int microBatches = 1) =>
        RankThreads.Run(4, async group =>
        {
            await using DeviceMesh mesh = await DeviceMesh.CreateAsync(group, shape);
            var copies = new DataParallel(mesh[MeshShape.Data], new DataParallelOptions
            {
                BucketBytes = 1024,
                FirstBucketBytes = 256,
                Compression = new CompressionOptions { Rules = CompressionRules.Parse(rules), Seed = 1 },
            });
            return await Train(around(mesh, copies), copies, () => make(group), samples, microBatches);
        });

    private static Task<Outcome[]> InPipelines(string rules, Func<ProcessGroup, nn.Module<Tensor, Tensor>> make, Func<InMemoryDataset> samples) => OnMesh(
        new MeshShape(data: 2, pipeline: 2), rules, static (mesh, copies) => new PipelineParallel(mesh[MeshShape.Pipeline], inner: copies), make, samples, microBatches: 3);

    private static Task<Outcome[]> InTensorGroups(string rules, TensorParallelPlan plan, Func<ProcessGroup, nn.Module<Tensor, Tensor>> make) => OnMesh(
        new MeshShape(data: 2, tensor: 2), rules, (mesh, copies) => new TensorParallel(mesh[MeshShape.Tensor], plan, copies), make, static () => Models.Data());

    [Theory]
    [InlineData("fp16", 5e-3)]
    [InlineData("powersgd:64", 1e-4)]
    public async Task What_loses_nearly_nothing_trains_nearly_as_one_process(string rules, double tolerance)
    {
        Outcome expected = await Train(new SingleProcess(), null, LayeredModels.Tied, LayeredModels.Tokens);
        Outcome[] pipelines = await InPipelines(rules, static _ => LayeredModels.Tied(), LayeredModels.Tokens);
        AssertAlike(expected, pipelines, tolerance);

        expected = await Train(new SingleProcess(), null, static () => Models.Mlp(), static () => Models.Data());
        Outcome[] groups = await InTensorGroups(rules, TensorParallelPlan.Mlp(Models.Mlp()), static _ => Models.Mlp());
        AssertAlike(expected, groups, tolerance);
    }

    [Theory]
    [InlineData("topk:0.05")]
    [InlineData("qsgd:4")]
    public async Task However_much_is_lost_what_several_ranks_hold_stays_the_same(string rules)
    {
        Outcome[] pipelines = await InPipelines(rules, static _ => LayeredModels.Tied(), LayeredModels.Tokens);
        // The weight that the first layer and the last one share comes first on every rank.
        Assert.All(pipelines, rank => Assert.Equal(pipelines[0].Local[..(11 * 16)], rank.Local[..(11 * 16)]));
        Assert.True(pipelines[0].Local.Length < pipelines[0].Parameters.Length);

        Outcome[] groups = await InTensorGroups(rules, TensorParallelPlan.Mlp(Models.Mlp()), static _ => Models.Mlp());
        foreach (Outcome[] ranks in (Outcome[][])[pipelines, groups])
        {
            Assert.All(ranks, rank => Assert.Equal(ranks[0].Losses, rank.Losses));
            Assert.All(ranks, rank => Assert.Equal(ranks[0].Parameters, rank.Parameters));
            Assert.All(ranks, static rank => Assert.InRange(rank.Losses.TakeLast(4).Average(), 0, rank.Losses[0]));
            Assert.All(ranks, static rank => Assert.InRange(rank.Statistics.Ratio, 2, 200));
        }
    }

    [Fact]
    public async Task Where_one_rank_has_no_finite_gradient_all_leave_out_the_step()
    {
        float[] before = Models.Seeded(1, () => Poisoned(false).parameters().SelectMany(static parameter => parameter.detach().data<float>().ToArray()).ToArray());
        Outcome[] pipelines = await InPipelines("fp16", static group => Poisoned(group.Rank == 0), static () => Models.Data());
        var plan = new TensorParallelPlan(new TensorParallelRule("1", TensorParallelKind.Column), new TensorParallelRule("3", TensorParallelKind.Row));
        Outcome[] groups = await InTensorGroups("fp16", plan, static group => Poisoned(group.Rank == 1));
        foreach (Outcome rank in pipelines.Concat(groups))
        {
            Assert.Equal(Steps, rank.Skipped);
            Assert.Equal(before, rank.Parameters);
            Assert.All(rank.Losses, static loss => Assert.True(float.IsFinite(loss)));
        }
    }

    private static void AssertAlike(Outcome expected, Outcome[] ranks, double tolerance)
    {
        foreach (Outcome rank in ranks)
        {
            Models.AssertClose(expected.Losses, rank.Losses, tolerance);
            Assert.Equal(ranks[0].Losses, rank.Losses);
            Assert.Equal(ranks[0].Parameters, rank.Parameters);
            Assert.Equal(0, rank.Skipped);
        }
    }

    private static Sequential Poisoned(bool on) => nn.Sequential(new Poison(on), nn.Linear(20, 32), nn.Tanh(), nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 5));

    /// <summary>Gives back its input, and a gradient that is not a number to its own parameter alone.</summary>
    private sealed class Poison : nn.Module<Tensor, Tensor>
    {
        private readonly Parameter nought = new(zeros(1));
        private readonly bool on;

        public Poison(bool on) : base(nameof(Poison))
        {
            this.on = on;
            RegisterComponents();
        }

        public override Tensor forward(Tensor input) => input + (0 * (on ? nought.sqrt() : nought));
    }
}

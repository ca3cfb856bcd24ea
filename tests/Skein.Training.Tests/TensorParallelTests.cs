using Skein.Training.Data;
using Skein.Training.Meshes;
using Skein.Training.TensorParallelism;
using Skein.Training.Tests.TensorParallelism;
using TorchSharp;
using static TorchSharp.torch;

namespace Skein.Training.Tests;

public class TensorParallelTests
{
    private static readonly TensorParallelPlan Plan = TensorParallelPlan.Transformer(Transformer.Heads);

    private sealed record Outcome(IReadOnlyList<float> Losses, float[] Parameters, EvaluationReport Evaluation);

    private static async Task<Outcome> Train(
        Strategy strategy, Func<nn.Module<Tensor, Tensor>> make, InMemoryDataset data, Func<Tensor, Tensor, Tensor> loss, int steps = 50, int accumulation = 1, double? clip = null)
    {
        using (strategy)
        using (data)
        {
            using nn.Module<Tensor, Tensor> model = Models.Seeded(1, make);
            var trainer = new Trainer(model, static parameters => optim.SGD(parameters, 0.1, momentum: 0.9), loss)
            {
                Strategy = strategy,
                BatchSize = 12,
                MaxSteps = steps,
                GradientAccumulation = accumulation,
                MaxGradientNorm = clip,
                Seed = 3,
            };
            TrainingReport report = await trainer.FitAsync(data, epochs: 1000);
            EvaluationReport evaluation = await trainer.EvaluateAsync(data);
            float[] parameters = [.. strategy.FullParameters(model).SelectMany(static entry => entry.Value.detach().to(ScalarType.Float32).contiguous().data<float>().ToArray())];
            trainer.Optimizer!.Dispose();
            return new Outcome(report.LossHistory, parameters, evaluation);
        }
    }

    private static Task<Outcome> TrainTransformer(Strategy strategy, bool tied = true, int accumulation = 1, double? clip = null) =>
        Train(strategy, () => new Transformer(tied: tied), Transformer.Data(), Transformer.Loss, accumulation: accumulation, clip: clip);

    private static void AssertEqual(Outcome expected, Outcome[] actual)
    {
        foreach (Outcome rank in actual)
        {
            Models.AssertClose(expected.Losses, rank.Losses, 1e-5);
            Assert.Equal(actual[0].Losses, rank.Losses);
            // Each rank's own copies of what all have whole among them: they have not drifted apart by a bit.
            Assert.Equal(actual[0].Parameters, rank.Parameters);
            Models.AssertClose(expected.Parameters, rank.Parameters, 1e-3, 1e-4);
            Assert.Equal(expected.Evaluation.Loss, rank.Evaluation.Loss, 1e-5);
            Assert.Equal(expected.Evaluation.Accuracy, rank.Evaluation.Accuracy);
        }
    }

    [Theory]
    [InlineData(1, false, true)]
    [InlineData(2, false, true)]
    [InlineData(3, false, false)]
    [InlineData(4, false, true)]
    [InlineData(1, true, true)]
    [InlineData(2, true, false)]
    [InlineData(3, true, true)]
    [InlineData(4, true, true)]
    public async Task A_transformer_on_any_number_of_ranks_equals_one_process(int ranks, bool sequence, bool tied)
    {
        Outcome expected = await TrainTransformer(new SingleProcess(), tied);
        Outcome[] actual = await RankThreads.Run(ranks, group => TrainTransformer(new TensorParallel(group, Plan with { SequenceParallel = sequence }), tied));
        Assert.True(expected.Losses[^1] < 0.5 * expected.Losses[0], $"the task is not learned: {expected.Losses[0]} to {expected.Losses[^1]}");
        AssertEqual(expected, actual);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task With_data_parallelism_accumulation_and_clipping_it_equals_one_process(bool sequence)
    {
        Outcome expected = await TrainTransformer(new SingleProcess(), clip: 0.5);
        Outcome[] actual = await RankThreads.Run(4, async group =>
        {
            await using DeviceMesh mesh = await DeviceMesh.CreateAsync(group, new MeshShape(data: 2, tensor: 2));
            var copies = new DataParallel(mesh[MeshShape.Data], new DataParallelOptions { BucketBytes = 4096, FirstBucketBytes = 256, Overlap = true });
            return await TrainTransformer(new TensorParallel(mesh[MeshShape.Tensor], Plan with { SequenceParallel = sequence }, copies), accumulation: 2, clip: 0.5);
        });
        AssertEqual(expected, actual);
    }

    [Theory]
    [InlineData(ZeroStage.OptimizerState, false)]
    [InlineData(ZeroStage.Gradients, true)]
    [InlineData(ZeroStage.Parameters, true)]
    public async Task With_sharded_copies_it_equals_one_process(ZeroStage stage, bool sequence)
    {
        Outcome expected = await TrainTransformer(new SingleProcess(), clip: 0.5);
        Outcome[] actual = await RankThreads.Run(4, async group =>
        {
            await using DeviceMesh mesh = await DeviceMesh.CreateAsync(group, new MeshShape(data: 2, tensor: 2));
            var copies = new ShardedDataParallel(mesh[MeshShape.Data], new ShardedOptions { Stage = stage });
            return await TrainTransformer(new TensorParallel(mesh[MeshShape.Tensor], Plan with { SequenceParallel = sequence }, copies), accumulation: 2, clip: 0.5);
        });
        AssertEqual(expected, actual);
    }

    [Theory]
    [InlineData(97)]
    [InlineData(99)]
    public async Task Copies_that_gather_parameters_equal_one_process_where_the_last_batch_gives_them_unequal_passes(int samples)
    {
        // Of the last batch one copy gets one sample or two, in as many micro-batches, and the other none or one.
        Outcome expected = await Train(new SingleProcess(), static () => Models.Mlp(), Models.Data(samples), Models.CrossEntropy);
        Outcome[] actual = await RankThreads.Run(4, async group =>
        {
            await using DeviceMesh mesh = await DeviceMesh.CreateAsync(group, new MeshShape(data: 2, tensor: 2));
            var copies = new ShardedDataParallel(mesh[MeshShape.Data]);
            return await Train(new TensorParallel(mesh[MeshShape.Tensor], TensorParallelPlan.Mlp(Models.Mlp()), copies), static () => Models.Mlp(), Models.Data(samples), Models.CrossEntropy, accumulation: 2);
        });
        AssertEqual(expected, actual);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(4)]
    public async Task An_mlp_by_pairs_of_layers_equals_one_process(int ranks)
    {
        Outcome expected = await Train(new SingleProcess(), static () => Models.Mlp(), Models.Data(), Models.CrossEntropy);
        Outcome[] actual = await RankThreads.Run(ranks, group => Train(
            new TensorParallel(group, TensorParallelPlan.Mlp(Models.Mlp())), static () => Models.Mlp(), Models.Data(), Models.CrossEntropy));
        AssertEqual(expected, actual);
    }

    [Fact]
    public async Task In_half_precision_it_is_as_near_as_rounding_allows()
    {
        static nn.Module<Tensor, Tensor> Make() => new Transformer().to(ScalarType.BFloat16);
        Outcome expected = await Train(new SingleProcess(), Make, Transformer.Data(), Transformer.Loss, steps: 30);
        Outcome[] actual = await RankThreads.Run(2, group => Train(
            new TensorParallel(group, Plan with { SequenceParallel = true }), Make, Transformer.Data(), Transformer.Loss, steps: 30));
        foreach (Outcome rank in actual)
        {
            Models.AssertClose(expected.Losses, rank.Losses, 0.03);
            Assert.Equal(actual[0].Parameters, rank.Parameters);
        }
    }

    [Theory]
    [InlineData(2, true)]
    [InlineData(4, false)]
    public async Task Each_rank_holds_its_part_and_what_cannot_be_divided(int ranks, bool tied)
    {
        const int Vocabulary = 26, W = Transformer.Width, Blocks = 2;
        long[] held = await RankThreads.Run(ranks, group =>
        {
            using var model = Models.Seeded(1, () => new Transformer(Vocabulary, Blocks, tied));
            Dictionary<string, nint> before = model.named_parameters().ToDictionary(static entry => entry.name, static entry => entry.parameter.Handle);
            using var strategy = new TensorParallel(group, Plan);
            strategy.Attach(model);
            // Optimizers and hooks that were given a parameter before go on working.
            Assert.Equal(before, model.named_parameters().ToDictionary(static entry => entry.name, static entry => entry.parameter.Handle));
            return model.parameters().Sum(static parameter => parameter.numel());
        });
        for (int rank = 0; rank < ranks; rank++)
        {
            long rows = (Vocabulary / ranks) + (rank < Vocabulary % ranks ? 1 : 0);
            long table = tied ? rows * W : (rows * W * 2) + rows;
            long block = (12 * W * W / ranks) + (7 * W / ranks) + (2 * W) + (4 * W);
            Assert.Equal(table + (Transformer.Context * W) + (Blocks * block) + (2 * W), held[rank]);
        }
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task A_block_sends_two_all_reduces_forward_and_two_backward(bool sequence)
    {
        // With two ranks, an all-reduce sends its buffer once from each, by whichever algorithm; so do a reduce-scatter and an all-gather together.
        const int Sequences = 16;
        long activation = Sequences * Transformer.Context * Transformer.Width * sizeof(float);
        async Task<(long Forward, long Backward)> Sent(int blocks)
        {
            (long Forward, long Backward)[] ranks = await RankThreads.Run(2, group =>
            {
                using var model = Models.Seeded(1, () => new Transformer(blocks: blocks));
                using var strategy = new TensorParallel(group, Plan with { SequenceParallel = sequence });
                strategy.Attach(model);
                using var scope = NewDisposeScope();
                Tensor ids = zeros(Sequences, Transformer.Context, int64);
                long start = group.BytesSent;
                Tensor loss = strategy.LossOf(Transformer.Loss)(model.call(ids), ids);
                long middle = group.BytesSent;
                loss.backward();
                return (middle - start, group.BytesSent - middle);
            });
            return (ranks.Sum(static rank => rank.Forward), ranks.Sum(static rank => rank.Backward));
        }

        (long oneForward, long oneBackward) = await Sent(1);
        (long threeForward, long threeBackward) = await Sent(3);
        // Each call has a signature ahead of it.
        Assert.InRange((threeForward - oneForward) / 2 / (double)(2 * activation), 2, 2.02);
        Assert.InRange((threeBackward - oneBackward) / 2 / (double)(2 * activation), 2, 2.02);
        // The embedding forward, the head backward; the loss sends three numbers for each position.
        Assert.InRange(oneForward / (double)(2 * activation), 3 + (3.0 / Transformer.Width), 3.03 + (3.0 / Transformer.Width));
        Assert.InRange(oneBackward / (double)(2 * activation), 3, 3.03);
    }

    [Fact]
    public async Task Values_are_gathered_in_the_order_of_the_mesh()
    {
        double[][][] all = await RankThreads.Run(6, async group =>
        {
            await using DeviceMesh mesh = await DeviceMesh.CreateAsync(group, new MeshShape(data: 2, tensor: 3));
            using var strategy = new TensorParallel(mesh[MeshShape.Tensor], Plan, new DataParallel(mesh[MeshShape.Data]));
            return strategy.Gather([group.Rank, -group.Rank]);
        });
        Assert.All(all, static rows => Assert.Equal([[0, 0], [1, -1], [2, -2], [3, -3], [4, -4], [5, -5]], rows));
    }

    [Fact]
    public async Task One_ranks_wish_to_stop_stops_all_after_the_same_step()
    {
        long[] steps = await RankThreads.Run(4, async group =>
        {
            await using DeviceMesh mesh = await DeviceMesh.CreateAsync(group, new MeshShape(data: 2, tensor: 2));
            using InMemoryDataset data = Models.Data();
            using nn.Module<Tensor, Tensor> model = Models.Mlp();
            using var strategy = new TensorParallel(mesh[MeshShape.Tensor], TensorParallelPlan.Mlp(model), new DataParallel(mesh[MeshShape.Data]));
            long last = 0;
            using var own = new CancellationTokenSource();
            var trainer = new Trainer(model, static parameters => optim.SGD(parameters, 0.1), Models.CrossEntropy)
            {
                Strategy = strategy,
                StepCompleted = info =>
                {
                    last = info.Step;
                    if (info.Step == 3 && group.Rank == 1) own.Cancel();
                },
            };
            await Assert.ThrowsAnyAsync<OperationCanceledException>(() => trainer.FitAsync(data, 100, own.Token));
            trainer.Optimizer!.Dispose();
            return last;
        });
        Assert.All(steps, static step => Assert.Equal(4, step));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Steps_leave_no_tensor_behind(bool sequence)
    {
        await RankThreads.Run(2, async group =>
        {
            using InMemoryDataset data = Transformer.Data();
            using var model = Models.Seeded(1, static () => new Transformer());
            using var strategy = new TensorParallel(group, Plan with { SequenceParallel = sequence });
            var counts = new List<long>();
            var trainer = new Trainer(model, static parameters => optim.SGD(parameters, 0.1), Transformer.Loss)
            {
                Strategy = strategy,
                BatchSize = 12,
                MaxGradientNorm = 1,
                MaxSteps = 60,
                StepCompleted = info =>
                {
                    if (info.Step is not (20 or 60)) return;
                    group.Barrier();
                    GC.Collect();
                    GC.WaitForPendingFinalizers();
                    counts.Add(Tensor.TotalCount);
                    group.Barrier();
                },
            };
            await trainer.FitAsync(data, 100);
            trainer.Optimizer!.Dispose();
            Assert.InRange(counts[1], 0, counts[0]); // fewer where an earlier test left some to a finalizer
            return 0;
        });
    }
}

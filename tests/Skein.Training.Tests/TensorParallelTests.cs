using Skein.Training.Data;
using Skein.Training.Meshes;
using Skein.Training.TensorParallelism;
using Skein.Training.Tests.TensorParallelism;
using static TorchSharp.torch;

namespace Skein.Training.Tests;

public class TensorParallelTests
{
    private static readonly TensorParallelPlan Plan = TensorParallelPlan.Transformer(Transformer.Heads);

    private sealed record Outcome(IReadOnlyList<float> Losses, float[] Parameters, EvaluationReport Evaluation, float[][] Local);

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
            float[][] local = [.. model.named_parameters().Where(static entry => IsWhole(entry.name)).Select(static entry => entry.parameter.detach().data<float>().ToArray())];
            trainer.Optimizer!.Dispose();
            return new Outcome(report.LossHistory, parameters, evaluation, local);
        }
    }

    private static bool IsWhole(string name) => name.Contains("norm", StringComparison.Ordinal) || name.Contains("positions", StringComparison.Ordinal)
        || name.EndsWith("output.bias", StringComparison.Ordinal) || name.EndsWith("down.bias", StringComparison.Ordinal);

    private static Task<Outcome> TrainTransformer(Strategy strategy, bool tied = true, int accumulation = 1, double? clip = null) =>
        Train(strategy, () => new Transformer(tied: tied), Transformer.Data(), Transformer.Loss, accumulation: accumulation, clip: clip);

    private static void AssertEqual(Outcome expected, Outcome[] actual)
    {
        foreach (Outcome rank in actual)
        {
            Models.AssertClose(expected.Losses, rank.Losses, 1e-5);
            Assert.Equal(actual[0].Losses, rank.Losses);
            Assert.Equal(actual[0].Parameters, rank.Parameters);
            Models.AssertClose(expected.Parameters, rank.Parameters, 1e-3, 1e-4);
            Assert.Equal(expected.Evaluation.Loss, rank.Evaluation.Loss, 1e-5);
            Assert.Equal(expected.Evaluation.Accuracy, rank.Evaluation.Accuracy);
            // What all ranks have whole has not drifted apart by a bit.
            Assert.Equal(actual[0].Local, rank.Local);
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
}

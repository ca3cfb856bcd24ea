using Skein.Training.Data;
using Skein.Training.Meshes;
using Skein.Training.Pipeline;
using static TorchSharp.torch;

namespace Skein.Training.Tests.Pipeline;

public class PipelineParallelTests
{
    private sealed record Outcome(IReadOnlyList<float> Losses, (string Name, float[] Values)[] Parameters, EvaluationReport Evaluation, long OwnParameters);

    private static async Task<Outcome> Train(
        Strategy strategy, Func<nn.Module<Tensor, Tensor>> make, int microBatches = 1, double? clip = null, int batch = 24, Func<InMemoryDataset>? samples = null, int steps = 50)
    {
        using (strategy)
        {
            using InMemoryDataset data = (samples ?? (static () => Models.Data(count: 100)))();
            using nn.Module<Tensor, Tensor> model = Models.Seeded(1, make);
            var trainer = new Trainer(model, static parameters => optim.SGD(parameters, 0.1, momentum: 0.9), Models.CrossEntropy)
            {
                Strategy = strategy,
                BatchSize = batch,
                MaxSteps = steps,
                GradientAccumulation = microBatches,
                MaxGradientNorm = clip,
                Seed = 3,
            };
            TrainingReport report = await trainer.FitAsync(data, epochs: 1000);
            using optim.Optimizer? optimizer = trainer.Optimizer;
            EvaluationReport evaluation = await trainer.EvaluateAsync(data);
            using var scope = NewDisposeScope();
            return new Outcome(
                report.LossHistory,
                [.. strategy.FullParameters(model).Select(static entry => (entry.Name, entry.Value.detach().data<float>().ToArray()))],
                evaluation,
                model.parameters().Sum(static parameter => parameter.numel()));
        }
    }

    private static void AssertEqual(Outcome expected, Outcome[] ranks)
    {
        foreach (Outcome rank in ranks)
        {
            Models.AssertClose(expected.Losses, rank.Losses, 1e-5);
            Assert.Equal(ranks[0].Losses, rank.Losses);
            Assert.Equal(expected.Parameters.Select(static entry => entry.Name), rank.Parameters.Select(static entry => entry.Name));
            for (int i = 0; i < expected.Parameters.Length; i++)
            {
                Models.AssertClose(expected.Parameters[i].Values, rank.Parameters[i].Values, 1e-4, 1e-6);
                Assert.Equal(ranks[0].Parameters[i].Values, rank.Parameters[i].Values);
            }

            Assert.Equal(expected.Evaluation.Loss, rank.Evaluation.Loss, 1e-5);
            Assert.Equal(expected.Evaluation.Accuracy, rank.Evaluation.Accuracy);
            Assert.Equal(100, rank.Evaluation.Samples);
        }
    }

    private static PipelineOptions With(string schedule) => new() { Schedule = PipelineSchedule.Parse(schedule) };

    [Theory]
    [InlineData("gpipe", 2, 4)]
    [InlineData("gpipe", 4, 5)]
    [InlineData("1f1b", 2, 3)]
    [InlineData("1f1b", 3, 8)]
    [InlineData("1f1b", 4, 2)]
    [InlineData("interleaved:2", 2, 5)]
    [InlineData("interleaved:2", 3, 4)]
    [InlineData("interleaved:3", 2, 1)]
    [InlineData("zero-bubble", 1, 2)]
    [InlineData("zero-bubble", 2, 7)]
    [InlineData("zero-bubble", 3, 2)]
    [InlineData("zero-bubble", 4, 6)]
    public async Task Every_schedule_equals_one_process(string schedule, int stages, int microBatches)
    {
        // Batches of 24 with a tail of 4: micro-batches of different sizes, and fewer of them at the end of an epoch.
        Outcome expected = await Train(new SingleProcess(), LayeredModels.Mlp);
        AssertEqual(expected, await RankThreads.Run(stages, group => Train(new PipelineParallel(group, With(schedule)), LayeredModels.Mlp, microBatches)));
    }

    [Theory]
    [InlineData("interleaved:2", 4, 6)]
    [InlineData("zero-bubble", 3, 6)]
    public async Task Layers_of_several_modules_and_the_norm_of_the_whole_gradient_equal_one_process(string schedule, int stages, int microBatches)
    {
        Outcome expected = await Train(new SingleProcess(), LayeredModels.Deep, clip: 0.05);
        AssertEqual(expected, await RankThreads.Run(stages, group => Train(new PipelineParallel(group, With(schedule)), LayeredModels.Deep, microBatches, clip: 0.05)));
    }

    [Theory]
    [InlineData("1f1b", 2)]
    [InlineData("1f1b", 1)]
    [InlineData("zero-bubble", 3)]
    [InlineData("interleaved:2", 2)]
    public async Task A_weight_that_two_layers_share_equals_one_process(string schedule, int stages)
    {
        Outcome expected = await Train(new SingleProcess(), LayeredModels.Tied, clip: 0.5, samples: LayeredModels.Tokens);
        AssertEqual(expected, await RankThreads.Run(stages, group => Train(new PipelineParallel(group, With(schedule)), LayeredModels.Tied, 4, clip: 0.5, samples: LayeredModels.Tokens)));
    }

    [Theory]
    [InlineData("1f1b", 24)]
    [InlineData("interleaved:2", 24)]
    [InlineData("zero-bubble", 33)]
    public async Task Pipelines_in_a_mesh_with_data_parallel_equal_one_process(string schedule, int batch)
    {
        // Batches of 33 of 100 samples leave one, so that one of two pipelines has none.
        Outcome expected = await Train(new SingleProcess(), LayeredModels.Tied, clip: 0.5, batch: batch, samples: LayeredModels.Tokens);
        AssertEqual(expected, await RankThreads.Run(4, async group =>
        {
            await using DeviceMesh mesh = await DeviceMesh.CreateAsync(group, new MeshShape(data: 2, pipeline: 2));
            return await Train(
                new PipelineParallel(mesh[MeshShape.Pipeline], With(schedule), new DataParallel(mesh[MeshShape.Data])),
                LayeredModels.Tied, 3, clip: 0.5, batch: batch, samples: LayeredModels.Tokens);
        }));
    }
}

using Skein.Collectives;
using Skein.TestKit;
using Skein.Training.Pipeline;
using static TorchSharp.torch;

namespace Skein.Training.Tests.Pipeline;

public class PipelineFailureTests
{
    [Theory]
    [InlineData("1f1b", 1)]
    [InlineData("zero-bubble", 0)]
    public void A_stage_that_throws_ends_all_ranks_with_its_name(string schedule, int culprit)
    {
        Exception?[] outcomes = Train(3, schedule, new Odd(static (input, call) => call < 7 ? input.tanh() : throw new InvalidDataException("this stage's own trouble")), at: culprit);
        Assert.Contains("this stage's own trouble", outcomes[culprit]!.Message, StringComparison.Ordinal);
        foreach (int rank in Enumerable.Range(0, 3).Where(rank => rank != culprit))
        {
            Assert.IsType<PeerLostException>(outcomes[rank]);
            Assert.Contains($"rank {culprit}", outcomes[rank]!.Message, StringComparison.Ordinal);
        }
    }

    [Fact]
    public void An_output_of_another_shape_at_a_boundary_is_an_error_with_both_shapes()
    {
        Exception?[] outcomes = Train(3, "gpipe", new Odd(static (input, call) => call < 7 ? input : input.narrow(1, 0, 9)), at: 1);
        Assert.Contains("agreed on Float32[4, 16] for 4 samples between them, but there is Float32[4, 9]", outcomes[1]!.Message, StringComparison.Ordinal);
        Assert.All([outcomes[0], outcomes[2]], static error => Assert.IsType<PeerLostException>(error));
    }

    [Fact]
    public async Task A_model_that_cannot_be_cut_is_an_error_on_every_rank()
    {
        Assert.Equal(
            "3 stages * 3 chunks each = 9 chunks, but the model has 7 layers to share out: use fewer stages or chunks, or a model of more layers",
            await Error(new PipelineOptions { Schedule = PipelineSchedule.Interleaved(3) }, LayeredModels.Mlp));
        Assert.Equal(
            "the split is 3 + 3 = 6 layers in 2 chunks, but the model has 7 layers for 3 stages * 1 chunks each = 3 chunks",
            await Error(new PipelineOptions { LayersPerChunk = [3, 3] }, LayeredModels.Mlp));
        Assert.StartsWith("stage 1 of the pipeline has no parameter to train", await Error(new PipelineOptions { LayersPerChunk = [1, 1, 5] }, LayeredModels.Mlp), StringComparison.Ordinal);
        Assert.StartsWith("a Linear cannot be taken apart into layers", await Error(new PipelineOptions(), static () => nn.Linear(2, 2)), StringComparison.Ordinal);
        Assert.StartsWith("no way to cut 7 layers", await Error(new PipelineOptions { StageMemoryBytes = 1000 }, LayeredModels.Mlp), StringComparison.Ordinal);

        static async Task<string> Error(PipelineOptions options, Func<nn.Module<Tensor, Tensor>> make)
        {
            var error = await Assert.ThrowsAsync<AggregateException>(() => RankThreads.Run(3, group =>
            {
                using var strategy = new PipelineParallel(group, options);
                using nn.Module<Tensor, Tensor> model = Models.Seeded(1, make);
                strategy.Attach(model);
                return 0;
            }));
            Assert.Equal(3, error.InnerExceptions.Count);
            return Assert.Single(error.InnerExceptions.Select(static inner => Assert.IsType<ArgumentException>(inner).Message).Distinct());
        }
    }

    /// <summary>Trains a pipeline whose stage <paramref name="at"/> has an odd layer.</summary>
    private static Exception?[] Train(int stages, string schedule, Odd odd, int at) => Ranks.Outcomes(stages, TransportKind.Tcp, group =>
    {
        using Data.InMemoryDataset data = Models.Data(count: 48);
        using nn.Module<Tensor, Tensor> model = Models.Seeded(1, () => nn.Sequential(
            nn.Linear(20, 16), at == 0 ? odd : nn.Tanh(), nn.Linear(16, 16), at == 1 ? odd : nn.Tanh(), nn.Linear(16, 5)));
        using var strategy = new PipelineParallel(group, new PipelineOptions { Schedule = PipelineSchedule.Parse(schedule), LayersPerChunk = [2, 2, 1] });
        var trainer = new Trainer(model, static parameters => optim.SGD(parameters, 0.1), Models.CrossEntropy) { Strategy = strategy, BatchSize = 16, GradientAccumulation = 4 };
        trainer.FitAsync(data, 10).GetAwaiter().GetResult();
    });

    private sealed class Odd(Func<Tensor, int, Tensor> function) : nn.Module<Tensor, Tensor>(nameof(Odd))
    {
        private int calls;

        public override Tensor forward(Tensor input) => function(input, calls++);
    }
}

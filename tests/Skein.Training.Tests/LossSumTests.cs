using Skein.Training.Data;
using Skein.Training.TensorParallelism;
using TorchSharp;
using static TorchSharp.torch;

namespace Skein.Training.Tests;

public class LossSumTests
{
    private const int Classes = 5;

    private static readonly Tensor Weights = tensor(new float[] { 1, 10, 0.1f, 5, 2 }).DetachFromDisposeScope();

    // Sequences [n, 6, 20] of which every other one has a single label, and two have none.
    private static InMemoryDataset Sequences()
    {
        (Tensor features, Tensor labels) = Models.Seeded(7, static () => (randn(24, 6, 20), randint(0, Classes, [24, 6])));
        for (int i = 0; i < 24; i++)
        {
            int labelled = i is 3 or 8 ? 0 : i % 2 == 0 ? 6 : 1;
            if (labelled < 6) labels.narrow(0, i, 1).narrow(1, labelled, 6 - labelled).fill_(-100);
        }

        return new InMemoryDataset(features, labels);
    }

    // One labelled sample in each batch of eight.
    private static InMemoryDataset HardlyLabelled()
    {
        InMemoryDataset data = Models.Data(count: 24);
        for (int i = 0; i < 24; i++)
        {
            if (i % 6 != 1) data.Labels.narrow(0, i, 1).fill_(-100);
        }

        return data;
    }

    private static Strategies.Training Masked => new()
    {
        Model = static () => Models.Mlp(),
        Data = Sequences,
        LossSum = static (output, labels) => LossSum.CrossEntropy(output, labels),
        BatchSize = 8,
    };

    public static TheoryData<string, int> Exact
    {
        get
        {
            var cases = new TheoryData<string, int>();
            foreach (string kind in Strategies.Exact)
            {
                cases.Add(kind, 1);
                cases.Add(kind, 4);
            }

            return cases;
        }
    }

    [Fact]
    public async Task Alone_the_whole_batch_gives_the_mean_over_labels_that_count()
    {
        Strategies.Outcome sums = await Masked.Run(new SingleProcess());
        Strategies.Outcome means = await (Masked with
        {
            LossSum = null,
            Loss = static (output, labels) => nn.functional.cross_entropy(output.reshape(-1, Classes), labels.reshape(-1)),
        }).Run(new SingleProcess());
        Models.AssertClose(means.Losses, sums.Losses, 1e-6, 1e-6);
        foreach ((string name, float[] values) in means.State) Models.AssertClose(values, sums.State[name], 1e-5, 1e-6);
    }

    [Theory]
    [MemberData(nameof(Exact))]
    public async Task Labels_to_be_ignored_count_nothing_whatever_ranks_and_micro_batches_there_are(string kind, int accumulation)
    {
        Strategies.Outcome single = await Masked.Run(new SingleProcess());
        Strategies.AssertSame(single, await (Masked with { Accumulation = accumulation, MaxGradientNorm = 1e3 }).RunRanks(kind), 1e-6);
    }

    [Theory]
    [InlineData("ddp", 2)]
    [InlineData("zero2", 2)]
    [InlineData("zero3", 4)]
    [InlineData("pipeline", 4)]
    public async Task Class_weights_are_divided_by_once(string kind, int accumulation)
    {
        Strategies.Training training = new()
        {
            Model = static () => Models.Mlp(),
            Data = static () => Models.Data(count: 48),
            LossSum = static (output, labels) => LossSum.CrossEntropy(output, labels, Weights),
        };
        Strategies.Outcome whole = await (training with { LossSum = null, Loss = static (output, labels) => nn.functional.cross_entropy(output, labels, Weights), Accumulation = 1 }).Run(new SingleProcess());
        Strategies.Outcome single = await (training with { Accumulation = 8 }).Run(new SingleProcess());
        Models.AssertClose(whole.Losses, single.Losses, 1e-6, 1e-6);
        Strategies.AssertSame(single, await (training with { Accumulation = accumulation }).RunRanks(kind), 1e-6);
    }

    [Theory]
    [MemberData(nameof(Exact))]
    public async Task Ranks_and_micro_batches_without_any_label_contribute_nothing(string kind, int accumulation)
    {
        Strategies.Training training = Masked with { Data = HardlyLabelled };
        Strategies.Outcome single = await training.Run(new SingleProcess());
        Assert.All(single.Losses, static loss => Assert.True(float.IsFinite(loss)));
        Assert.True(double.IsFinite(single.Evaluation.Loss));
        Strategies.AssertSame(single, await (training with { Accumulation = accumulation }).RunRanks(kind), 1e-6);
    }

    [Theory]
    [InlineData("single")]
    [InlineData("ddp")]
    [InlineData("zero3")]
    [InlineData("pipeline")]
    public async Task A_step_without_any_label_leaves_the_model_as_it_is(string kind)
    {
        Strategies.Training training = Masked with
        {
            Data = static () =>
            {
                InMemoryDataset data = Models.Data(count: 16);
                data.Labels.fill_(-100);
                return data;
            },
            Optimizer = static parameters => optim.AdamW(parameters, 0.1, weight_decay: 0.1),
        };
        using nn.Module<Tensor, Tensor> untouched = Models.Mlp();
        Strategies.Outcome[] ranks = kind == "single" ? [await training.Run(new SingleProcess())] : await training.RunRanks(kind);
        Assert.All(ranks, static rank => Assert.All(rank.Losses, static loss => Assert.Equal(0, loss)));
        Assert.All(ranks, rank => Assert.Equal(Models.Parameters(untouched), rank.State.Values.SelectMany(static values => values)));
        Assert.True(double.IsNaN(ranks[0].Evaluation.Loss));
    }

    [Theory]
    [InlineData("local")]
    [InlineData("gossip")]
    public async Task Ranks_that_train_by_themselves_divide_by_their_own_weight(string kind)
    {
        // With one rank they are one process.
        Strategies.Outcome single = await (Masked with { Accumulation = 1 }).Run(new SingleProcess());
        Strategies.AssertSame(single, await (Masked with { Accumulation = 4 }).RunRanks(kind, ranks: 1), 1e-6);
        Assert.All((await Masked.RunRanks(kind)).SelectMany(static rank => rank.Losses), static loss => Assert.True(float.IsFinite(loss)));
    }

    [Fact]
    public async Task Accuracy_counts_samples_with_a_label()
    {
        using InMemoryDataset data = HardlyLabelled();
        using nn.Module<Tensor, Tensor> model = Models.Mlp();
        EvaluationReport report = await new Trainer(model, static parameters => optim.SGD(parameters, 0.1), static (output, labels) => LossSum.CrossEntropy(output, labels)) { BatchSize = 5 }.EvaluateAsync(data);
        using Tensor output = model.call(data.Features);
        Assert.Equal(24, report.Samples);
        Assert.Equal(output.argmax(1).eq(data.Labels).sum().ToInt64() / 4.0, report.Accuracy);
        Assert.Equal(nn.functional.cross_entropy(output, data.Labels).ToDouble(), report.Loss, 1e-6);
    }

    [Fact]
    public async Task Tensor_parallel_ranks_take_it_too()
    {
        Strategies.Outcome single = await Masked.Run(new SingleProcess());
        Strategies.Outcome[] ranks = await RankThreads.Run(2, group =>
        {
            using nn.Module<Tensor, Tensor> plan = Models.Mlp();
            return (Masked with { Accumulation = 3 }).Run(new TensorParallel(group, TensorParallelPlan.Mlp(plan)));
        });
        Strategies.AssertSame(single, ranks, 1e-6);
    }

    [Fact]
    public async Task A_strategy_that_cannot_tell_the_weight_takes_no_such_loss()
    {
        using InMemoryDataset data = Models.Data();
        using nn.Module<Tensor, Tensor> model = Models.Mlp();
        using var strategy = new Weightless();
        var trainer = new Trainer(model, static parameters => optim.SGD(parameters, 0.1), static (output, labels) => LossSum.CrossEntropy(output, labels))
        {
            Strategy = strategy,
        };
        var error = await Assert.ThrowsAsync<NotSupportedException>(() => trainer.FitAsync(data));
        Assert.Contains("Weightless takes no loss that is a LossSum", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_weight_that_is_none_is_an_error()
    {
        using InMemoryDataset data = Models.Data();
        using nn.Module<Tensor, Tensor> model = Models.Mlp();
        var error = await Assert.ThrowsAsync<InvalidOperationException>(
            () => new Trainer(model, static parameters => optim.SGD(parameters, 0.1), static (output, _) => new LossSum(output.sum(), -1)).FitAsync(data));
        Assert.Contains("the weight -1", error.Message, StringComparison.Ordinal);
    }

    private sealed class Weightless : Strategy
    {
        public override int Rank => 0;

        public override int WorldSize => 1;

        public override void Attach(nn.Module model) { }

        protected internal override StepOutcome ComputeGradients(StepBatch batch) => default;

        protected internal override void Sum(Span<double> values) { }
    }
}

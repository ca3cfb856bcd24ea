using Skein.Training.Data;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.Tests.Sharding;

public class ShardedDataParallelTests
{
    private sealed record Outcome(IReadOnlyList<float> Losses, float[] Parameters, EvaluationReport Evaluation, double? Norm);

    private static async Task<Outcome> Train(
        Strategy strategy, Func<nn.Module<Tensor, Tensor>> make, int steps = 50, int batch = 24, int accumulation = 1, double? clip = null, ScalarType type = ScalarType.Float32)
    {
        using (strategy)
        {
            using InMemoryDataset data = Models.Data(count: 100);
            using nn.Module<Tensor, Tensor> model = Models.Seeded(1, () => make().to(type));
            double? norm = null;
            var trainer = new Trainer(model, static parameters => optim.AdamW(parameters, 0.01), Models.CrossEntropy)
            {
                Strategy = strategy,
                BatchSize = batch,
                MaxSteps = steps,
                GradientAccumulation = accumulation,
                MaxGradientNorm = clip,
                Seed = 3,
                StepCompleted = step => norm ??= step.GradientNorm,
            };
            TrainingReport report = await trainer.FitAsync(data, epochs: 1000);
            EvaluationReport evaluation = await trainer.EvaluateAsync(data);
            float[] parameters = [.. strategy.FullParameters(model).SelectMany(static entry => entry.Value.detach().to(ScalarType.Float32).data<float>().ToArray())];
            trainer.Optimizer!.Dispose();
            return new Outcome(report.LossHistory, parameters, evaluation, norm);
        }
    }

    private static Task<Outcome[]> TrainRanks(int ranks, ShardedOptions options, Func<nn.Module<Tensor, Tensor>> make, int batch = 24, int accumulation = 1, double? clip = null, ScalarType type = ScalarType.Float32) =>
        RankThreads.Run(ranks, group => Train(new ShardedDataParallel(group, options), make, batch: batch, accumulation: accumulation, clip: clip, type: type));

    private static void AssertSame(Outcome single, Outcome[] ranks, double relative = 1e-5)
    {
        Models.AssertClose(single.Losses, ranks[0].Losses, relative, 1e-6);
        Models.AssertClose(single.Parameters, ranks[0].Parameters, 1e-3, 1e-4);
        Assert.Equal(single.Evaluation.Loss, ranks[0].Evaluation.Loss, 1e-4);
        Assert.All(ranks, rank => Assert.Equal(ranks[0].Parameters, rank.Parameters));
        Assert.All(ranks, rank => Assert.Equal(ranks[0].Losses, rank.Losses));
    }

    public static TheoryData<ZeroStage, int, bool> Cases
    {
        get
        {
            var cases = new TheoryData<ZeroStage, int, bool>();
            foreach (ZeroStage stage in Enum.GetValues<ZeroStage>())
            {
                foreach (int ranks in (int[])[1, 2, 3, 4]) cases.Add(stage, ranks, ranks % 2 == 0);
            }

            return cases;
        }
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public async Task Every_stage_trains_as_one_process_does(ZeroStage stage, int ranks, bool overlap)
    {
        Outcome single = await Train(new SingleProcess(), static () => Models.Mlp());
        AssertSame(single, await TrainRanks(ranks, new ShardedOptions { Stage = stage, Overlap = overlap }, static () => Models.Mlp()));
    }

    [Theory]
    [InlineData(ZeroStage.OptimizerState)]
    [InlineData(ZeroStage.Gradients)]
    [InlineData(ZeroStage.Parameters)]
    public async Task Micro_batches_that_some_ranks_have_fewer_of_change_nothing(ZeroStage stage)
    {
        // 100 = 14 * 7 + 2: three ranks have 3, 2 and 2 samples of a step, and the last step has none for the third.
        Outcome single = await Train(new SingleProcess(), static () => Models.Mlp(), batch: 7);
        AssertSame(single, await TrainRanks(3, new ShardedOptions { Stage = stage }, static () => Models.Mlp(), batch: 7, accumulation: 3));
    }

    [Theory]
    [InlineData(ZeroStage.OptimizerState)]
    [InlineData(ZeroStage.Parameters)]
    public async Task Clipping_sees_the_norm_of_the_whole_model(ZeroStage stage)
    {
        Outcome single = await Train(new SingleProcess(), static () => Models.Mlp(), clip: 0.05);
        Outcome[] ranks = await TrainRanks(3, new ShardedOptions { Stage = stage }, static () => Models.Mlp(), clip: 0.05);
        AssertSame(single, ranks);
        Assert.Equal(single.Norm!.Value, ranks[0].Norm!.Value, 1e-6);
    }

    [Theory]
    [InlineData(ZeroStage.OptimizerState, 1)]
    [InlineData(ZeroStage.Gradients, 2)]
    [InlineData(ZeroStage.Parameters, 3)]
    public async Task Tied_and_own_parameters_of_the_model_are_divided_too(ZeroStage stage, int ranks)
    {
        Outcome single = await Train(new SingleProcess(), static () => new TiedLayers());
        AssertSame(single, await TrainRanks(ranks, new ShardedOptions { Stage = stage, Overlap = true }, static () => new TiedLayers()));
    }

    [Theory]
    [InlineData(ZeroStage.Gradients)]
    [InlineData(ZeroStage.Parameters)]
    public async Task Half_precision_has_shards_in_single_precision(ZeroStage stage)
    {
        Outcome single = await Train(new SingleProcess(), static () => Models.Mlp(), type: ScalarType.BFloat16);
        Outcome[] ranks = await TrainRanks(2, new ShardedOptions { Stage = stage }, static () => Models.Mlp(), type: ScalarType.BFloat16);
        Assert.Equal(ranks[0].Parameters, ranks[1].Parameters);
        // Gradients of half batches are rounded to 8 bits each.
        Models.AssertClose(single.Losses, ranks[0].Losses, 0.02, 0.01);
        // It learns: with updates rounded to 8 bits it would stand still below a step of 1/256 of the value.
        Assert.True(single.Losses[^1] < 0.5 * single.Losses[0], $"from {single.Losses[0]} to {single.Losses[^1]}");
    }

    [Theory]
    [InlineData(ZeroStage.OptimizerState, 1, 0)]
    [InlineData(ZeroStage.Gradients, 1, 0)]
    [InlineData(ZeroStage.Parameters, 2, 1)]
    public async Task A_step_sends_what_the_paper_says(ZeroStage stage, int gathers, int extra)
    {
        // Two ranks send half of a unit to each other in an all-gather and in a reduce-scatter (Rajbhandari et al. 2020, section 7).
        const int Ranks = 2, Steps = 3;
        (long sent, long length)[] ranks = await RankThreads.Run(Ranks, async group =>
        {
            using var strategy = new ShardedDataParallel(group, new ShardedOptions { Stage = stage, Overlap = false });
            using InMemoryDataset data = Models.Data(count: 96);
            using nn.Module<Tensor, Tensor> model = Models.Seeded(1, static () => nn.Sequential(nn.Linear(20, 512), nn.Tanh(), nn.Linear(512, 512), nn.Tanh(), nn.Linear(512, 5)));
            long count = model.parameters().Sum(static parameter => parameter.numel());
            var trainer = new Trainer(model, static parameters => optim.SGD(parameters, 0.1), Models.CrossEntropy) { Strategy = strategy, BatchSize = 24, MaxSteps = 1 };
            await trainer.FitAsync(data);
            long before = group.BytesSent;
            var more = new Trainer(model, static parameters => optim.SGD(parameters, 0.1), Models.CrossEntropy) { Strategy = strategy, BatchSize = 24, MaxSteps = Steps };
            await more.FitAsync(data);
            return (group.BytesSent - before, count);
        });
        // The last unit is not gathered again for the backward pass.
        double half = ranks[0].length * sizeof(float) / 2.0;
        double last = (512 * 5 + 5) * sizeof(float) / 2.0 * extra;
        Assert.InRange(ranks[0].sent / (double)Steps, (half * (gathers + 1)) - last, ((half * (gathers + 1)) - last) * 1.02);
    }

    [Fact]
    public async Task An_optimizer_over_the_whole_model_is_refused()
    {
        using InMemoryDataset data = Models.Data();
        using nn.Module<Tensor, Tensor> model = Models.Mlp();
        using var optimizer = optim.SGD(model.parameters(), 0.1);
        InvalidOperationException[] errors = await RankThreads.Run(1, async group =>
        {
            using var strategy = new ShardedDataParallel(group);
            return await Assert.ThrowsAsync<InvalidOperationException>(() => new Trainer(model, optimizer, Models.CrossEntropy) { Strategy = strategy }.FitAsync(data));
        });
        Assert.Contains("parameters => optim.AdamW(parameters)", errors[0].Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task After_the_strategy_a_stage_2_model_stands_for_itself()
    {
        float[][] ranks = await RankThreads.Run(2, group =>
        {
            using nn.Module<Tensor, Tensor> model = Models.Mlp();
            float[] before = Models.Parameters(model);
            var strategy = new ShardedDataParallel(group, new ShardedOptions { Stage = ZeroStage.Gradients });
            strategy.Attach(model);
            strategy.Dispose();
            Assert.Equal(before, Models.Parameters(model));
            return before;
        });
        Assert.Equal(ranks[0], ranks[1]);
    }

    [Theory]
    [InlineData(ZeroStage.Gradients)]
    [InlineData(ZeroStage.Parameters)]
    public async Task What_was_saved_goes_on_as_if_it_had_not_stopped(ZeroStage stage)
    {
        string directory = Directory.CreateTempSubdirectory("skein-sharded-").FullName;
        try
        {
            await RankThreads.Run(3, async group =>
            {
                using InMemoryDataset data = Models.Data(count: 100);
                using nn.Module<Tensor, Tensor> first = Models.Mlp(seed: 1), second = Models.Mlp(seed: 2);
                using var saved = new ShardedDataParallel(group, new ShardedOptions { Stage = stage });
                using var loaded = new ShardedDataParallel(group, new ShardedOptions { Stage = stage });
                Trainer trainer = Over(first, saved, static _ => { }, steps: 8);
                await trainer.FitAsync(data, epochs: 10);
                saved.Save(directory, trainer.Optimizer!);
                IReadOnlyList<float> expected = (await trainer.FitAsync(data, epochs: 10)).LossHistory;
                Trainer other = Over(second, loaded, optimizer => loaded.Load(directory, optimizer), steps: 8, start: 8);
                Assert.Equal(expected, (await other.FitAsync(data, epochs: 10)).LossHistory);
                trainer.Optimizer!.Dispose();
                other.Optimizer!.Dispose();
                return 0;
            });
            Exception error = await Assert.ThrowsAsync<AggregateException>(() => RankThreads.Run(2, async group =>
            {
                using InMemoryDataset data = Models.Data(count: 100);
                using nn.Module<Tensor, Tensor> model = Models.Mlp();
                using var strategy = new ShardedDataParallel(group, new ShardedOptions { Stage = stage });
                await Over(model, strategy, optimizer => strategy.Load(directory, optimizer), steps: 1).FitAsync(data);
                return 0;
            }));
            Assert.Contains("written by 3 ranks, but there are 2", error.ToString(), StringComparison.Ordinal);
        }
        finally
        {
            Directory.Delete(directory, recursive: true);
        }

        static Trainer Over(nn.Module<Tensor, Tensor> model, Strategy strategy, Action<optim.Optimizer> prepare, int steps, long start = 0) => new(
            model,
            parameters =>
            {
                optim.Optimizer optimizer = optim.AdamW(parameters, 0.01);
                prepare(optimizer);
                return optimizer;
            },
            Models.CrossEntropy)
        {
            Strategy = strategy,
            BatchSize = 24,
            MaxSteps = steps,
            StartStep = start,
        };
    }

    private sealed class TiedLayers : nn.Module<Tensor, Tensor>, ILayeredModel
    {
        private readonly ModuleList<nn.Module<Tensor, Tensor>> layers;

        public TiedLayers()
            : base(nameof(TiedLayers))
        {
            Linear first = nn.Linear(20, 20), last = nn.Linear(20, 20);
            last.weight = first.weight;
            layers = [first, nn.Sequential(nn.Tanh(), nn.Linear(20, 20), nn.Tanh()), last, nn.Linear(20, 5)];
            RegisterComponents();
        }

        public ModuleList<nn.Module<Tensor, Tensor>> Layers => layers;

        public override Tensor forward(Tensor input) => layers.Aggregate(input, static (value, layer) => layer.call(value));
    }
}

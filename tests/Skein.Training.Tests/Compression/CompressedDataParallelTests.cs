using Skein.Training.Compression;
using Skein.Training.Data;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.Tests.Compression;

public class CompressedDataParallelTests
{
    private sealed record Outcome(IReadOnlyList<float> Losses, float[] Parameters, CompressionStatistics Statistics, long Skipped);

    private static DataParallelOptions Options(string rules, bool overlap = false, double momentum = 0) => new()
    {
        BucketBytes = 1024,
        FirstBucketBytes = 256,
        Overlap = overlap,
        Compression = new CompressionOptions { Rules = CompressionRules.Parse(rules), Momentum = momentum, Seed = 1 },
    };

    private static async Task<Outcome> Train(Strategy strategy, double momentum = 0.9, int steps = 60, InMemoryDataset? from = null)
    {
        using (strategy)
        {
            using InMemoryDataset own = Models.Data(count: 96);
            using nn.Module<Tensor, Tensor> model = Models.Mlp();
            using var optimizer = optim.SGD(model.parameters(), 0.05, momentum: momentum);
            var trainer = new Trainer(model, optimizer, Models.CrossEntropy) { Strategy = strategy, BatchSize = 24, MaxSteps = steps, Seed = 3 };
            TrainingReport report = await trainer.FitAsync(from ?? own, epochs: 1000);
            var parallel = strategy as DataParallel;
            return new Outcome(report.LossHistory, Models.Parameters(model), parallel?.CompressionStatistics ?? default, parallel?.SkippedSteps ?? 0);
        }
    }

    [Theory]
    [InlineData("fp16", 5e-3)]
    [InlineData("bf16", 2e-2)]
    [InlineData("topk:1", 5e-3)]
    [InlineData("randomk:1", 1e-4)]
    [InlineData("powersgd:64", 1e-4)]
    [InlineData("int8", 5e-2)]
    public async Task Nearly_nothing_lost_trains_nearly_as_one_process(string rules, double tolerance)
    {
        Outcome expected = await Train(new SingleProcess());
        foreach (bool overlap in new[] { false, true })
        {
            Outcome[] actual = await RankThreads.Run(3, group => Train(new DataParallel(group, Options(rules, overlap))));
            foreach (Outcome rank in actual)
            {
                Models.AssertClose(expected.Losses, rank.Losses, tolerance);
                Assert.Equal(actual[0].Parameters, rank.Parameters);
                Assert.Equal(actual[0].Losses, rank.Losses);
            }
        }
    }

    [Theory]
    [InlineData("qsgd:4", 0.9, 0)]
    [InlineData("topk:0.05", 0, 0.9)]
    [InlineData("randomk:0.1", 0, 0.9)]
    [InlineData("powersgd:2", 0.9, 0)]
    [InlineData("signsgd", 0.9, 0)]
    [InlineData("topk:0.05;bias=none;2.weight=int8", 0, 0.9)]
    public async Task Lossy_methods_learn_and_are_deterministic(string rules, double optimizerMomentum, double momentum)
    {
        Task<Outcome[]> Run(bool overlap) => RankThreads.Run(
            3, group => Train(new DataParallel(group, Options(rules, overlap, momentum)), optimizerMomentum, steps: 300));
        Outcome[] first = await Run(overlap: true);
        Outcome[] second = await Run(overlap: true);
        Outcome single = await Train(new SingleProcess(), steps: 300);
        Assert.All(first, rank => Assert.Equal(first[0].Parameters, rank.Parameters));
        Assert.Equal(first[0].Parameters, second[0].Parameters);
        Assert.InRange(first[0].Losses.TakeLast(4).Average(), 0, single.Losses.TakeLast(4).Average() + 0.4);
        Assert.InRange(first[0].Statistics.RelativeError, 0.01, 1);
        Assert.Equal(0, first[0].Skipped);
    }

    [Theory]
    [InlineData("none", false)]
    [InlineData("fp16", true)]
    [InlineData("topk:0.1", true)]
    [InlineData("powersgd:2;bias=none", false)]
    public async Task One_ranks_NaN_makes_all_ranks_skip_the_step(string rules, bool overlap)
    {
        // A sample that is not a number, in one rank's share of one step of four.
        Outcome[] all = await RankThreads.Run(2, async group =>
        {
            using InMemoryDataset clean = Models.Data(count: 96);
            using Tensor features = clean.Features.clone();
            features[17, 3] = float.NaN;
            using var data = new InMemoryDataset(features.clone(), clean.Labels.clone());
            return await Train(new DataParallel(group, Options(rules, overlap)), steps: 8, from: data);
        });
        foreach (Outcome rank in all)
        {
            Assert.Equal(2, rank.Skipped);
            Assert.Equal(2, rank.Losses.Count(float.IsNaN));
            Assert.All(rank.Parameters, value => Assert.True(float.IsFinite(value)));
            Assert.Equal(all[0].Parameters, rank.Parameters);
        }
    }

    // What is sent adds up to the gradients, so that each weight ends at -0.01 times their sum: of ten ones with momentum m, 10 / (1 - m).
    [Theory]
    [InlineData("fp16", 0.9, -1)]
    [InlineData("bf16", 0.9, -1)]
    [InlineData("int8", 0.9, -1)]
    [InlineData("qsgd:4", 0, -0.1)]
    [InlineData("topk:0.1", 0, -0.1)]
    [InlineData("randomk:0.1", 0, -0.1)]
    [InlineData("powersgd:2", 0.9, -1)]
    [InlineData("signsgd", 0, -0.1)]
    [InlineData("signsgd", 0.9, -1)]
    // Every one of 200 velocities is above zero, and counts as 1.
    [InlineData("signsgd:majority", 0.9, -2)]
    public async Task Parameters_that_fill_no_block_move_by_their_own_gradients_only(string rules, double momentum, double expected)
    {
        foreach (int size in new[] { 1, 3, 17 })
        {
            float[][] all = await RankThreads.Run(2, group =>
            {
                nn.Module<Tensor, Tensor>[] layers = [.. Enumerable.Range(0, 20).Select(_ => nn.Linear(size, 1, hasBias: false))];
                using var model = nn.Sequential(layers);
                using (no_grad()) foreach (Parameter parameter in model.parameters()) parameter.zero_();
                using var strategy = new DataParallel(group, Options(rules, momentum: momentum));
                using var optimizer = optim.SGD(model.parameters(), 0.01);
                strategy.Attach(model);
                for (int step = 0; step < 200; step++)
                {
                    using DisposeScope scope = NewDisposeScope();
                    optimizer.zero_grad();
                    Tensor sum = cat(model.parameters().Select(static parameter => parameter.reshape(-1)).ToArray()).sum();
                    (sum * (step < 10 ? 1f : 0f)).backward();
                    strategy.SynchronizeGradients();
                    optimizer.step();
                }

                return Models.Parameters(model);
            });
            Assert.All(all[0], value => Assert.InRange(value, expected - 0.02, expected + 0.02));
            Assert.Equal(all[0], all[1]);
        }
    }

    [Theory]
    [InlineData("none", 0)]
    [InlineData("fp16", 0.5)]
    [InlineData("int8", 0)]
    [InlineData("qsgd:4", 0)]
    [InlineData("topk:0.1", 0.5)]
    [InlineData("randomk:0.1", 0)]
    [InlineData("powersgd:2", 0)]
    [InlineData("signsgd", 0)]
    [InlineData("signsgd", 0.5)]
    [InlineData("signsgd:majority", 0)]
    public async Task Going_on_from_saved_compression_gives_the_same_bits(
        string rules, double momentum) => await RankThreads.Run(2, group =>
    {
        using var whole = new Halves(group, Options(rules, momentum: momentum));
        whole.Run(0, 40);
        using var first = new Halves(group, Options(rules, momentum: momentum));
        first.Run(0, 20);
        using var second = new Halves(group, Options(rules, momentum: momentum));
        second.GoOnFrom(first);
        second.Run(20, 40);
        Assert.Equal(Models.Parameters(whole.Model), Models.Parameters(second.Model));
        return true;
    });

    /// <summary>Layers of odd sizes, one of which is used in every third step only, in a loop without an optimizer's state.</summary>
    private sealed class Halves : IDisposable
    {
        private readonly nn.Module<Tensor, Tensor> always = Models.Seeded(
            1, static () => nn.Sequential(nn.Linear(7, 13), nn.Tanh(), nn.Linear(13, 3)));

        private readonly nn.Module<Tensor, Tensor> sometimes = Models.Seeded(2, static () => nn.Linear(7, 3));
        private readonly InMemoryDataset data = Models.Data(features: 7, classes: 3);
        private readonly int rank;
        private readonly DataParallel strategy;

        public Halves(Collectives.ProcessGroup group, DataParallelOptions options)
        {
            rank = group.Rank;
            Model = nn.Sequential(("always", always), ("sometimes", sometimes));
            strategy = new DataParallel(group, options);
            strategy.Attach(Model);
        }

        public nn.Module Model { get; }

        public void Run(int from, int to)
        {
            using var optimizer = optim.SGD(Model.parameters(), 0.05);
            for (int step = from; step < to; step++)
            {
                using DisposeScope scope = NewDisposeScope();
                optimizer.zero_grad();
                long start = (step % 4 * 24) + (rank * 12);
                Tensor features = data.Features.narrow(0, start, 12), output = always.call(features);
                if (step % 3 == 0) output += sometimes.call(features);
                Models.CrossEntropy(output, data.Labels.narrow(0, start, 12)).backward();
                strategy.SynchronizeGradients();
                optimizer.step();
            }
        }

        public void GoOnFrom(Halves other)
        {
            using var noGradient = no_grad();
            foreach ((Parameter own, Parameter theirs) in Model.parameters().Zip(other.Model.parameters())) own.copy_(theirs);
            using var saved = new MemoryStream();
            other.strategy.SaveCompression(saved);
            saved.Position = 0;
            strategy.LoadCompression(saved);
            Assert.Equal(saved.Length, saved.Position);
        }

        public void Dispose()
        {
            strategy.Dispose();
            Model.Dispose();
            data.Dispose();
        }
    }

    [Fact]
    public async Task Auto_settles_on_one_method_for_all_ranks()
    {
        string[] chosen = await RankThreads.Run(3, async group =>
        {
            var strategy = new DataParallel(group, Options("auto;bias=none"));
            Outcome outcome = await Train(strategy);
            Assert.InRange(outcome.Losses[^1], 0, outcome.Losses[0]);
            return $"{strategy.Compression}";
        });
        Assert.All(chosen, one => Assert.Equal(chosen[0], one));
        Assert.DoesNotContain("auto", chosen[0], StringComparison.Ordinal);
        Assert.EndsWith(";bias=none", chosen[0], StringComparison.Ordinal);
    }

    [Fact]
    public async Task Only_single_precision_is_compressed() => await RankThreads.Run(2, group =>
    {
        using nn.Module<Tensor, Tensor> model = Models.Mlp().to(ScalarType.Float64);
        using var strategy = new DataParallel(group, Options("fp16"));
        Assert.Contains("Float64", Assert.Throws<NotSupportedException>(() => strategy.Attach(model)).Message, StringComparison.Ordinal);
        return true;
    });

    [Theory]
    [InlineData(1.0, null, 0, "momentum")]
    [InlineData(-0.1, null, 0, "momentum")]
    [InlineData(0.0, 0.0, 0, "norm")]
    [InlineData(0.0, double.NaN, 0, "norm")]
    [InlineData(0.0, null, -1, "warm-up")]
    public void Options_out_of_range_are_named(double momentum, double? clip, int warmup, string message)
    {
        var options = new CompressionOptions { Rules = CompressionRules.Parse("fp16"), Momentum = momentum, ClipNorm = clip, WarmupSteps = warmup };
        Assert.Contains(message, Assert.Throws<ArgumentException>(options.Validate).Message, StringComparison.Ordinal);
    }
}

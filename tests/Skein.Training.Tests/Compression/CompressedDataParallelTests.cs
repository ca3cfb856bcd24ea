using Skein.Training.Compression;
using Skein.Training.Data;
using TorchSharp;
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

using Skein.Training.Data;
using TorchSharp;
using static TorchSharp.torch;

namespace Skein.Training.Tests;

public class DataParallelTests
{
    // Small buckets, so that even these models have several and the overlapped path runs.
    private static DataParallelOptions Buckets(bool overlap) => new() { BucketBytes = 1024, FirstBucketBytes = 256, Overlap = overlap };

    private sealed record Outcome(IReadOnlyList<float> Losses, float[] Parameters, EvaluationReport Evaluation);

    private static async Task<Outcome> Train(
        Strategy strategy, int steps = 50, int batch = 24, int accumulation = 1, double? clip = null, Func<nn.Module<Tensor, Tensor>>? make = null, int seed = 1)
    {
        using (strategy)
        {
            using InMemoryDataset data = Models.Data(count: 100);
            using nn.Module<Tensor, Tensor> model = Models.Seeded(seed, make ?? (static () => Models.Mlp()));
            using var optimizer = optim.SGD(model.parameters(), 0.1, momentum: 0.9);
            var trainer = new Trainer(model, optimizer, Models.CrossEntropy)
            {
                Strategy = strategy,
                BatchSize = batch,
                MaxSteps = steps,
                GradientAccumulation = accumulation,
                MaxGradientNorm = clip,
                Seed = 3,
            };
            TrainingReport report = await trainer.FitAsync(data, epochs: 1000);
            return new Outcome(report.LossHistory, Models.Parameters(model), await trainer.EvaluateAsync(data));
        }
    }

    [Theory]
    [InlineData(1, false)]
    [InlineData(2, false)]
    [InlineData(2, true)]
    [InlineData(3, true)]
    [InlineData(4, false)]
    [InlineData(4, true)]
    public async Task Any_number_of_ranks_equals_one_process(int ranks, bool overlap)
    {
        // Batches of 24 with a tail of 4: with 3 ranks the tail gives 2, 1 and 1 samples.
        Outcome expected = await Train(new SingleProcess());
        Outcome[] actual = await RankThreads.Run(ranks, group => Train(new DataParallel(group, Buckets(overlap))));
        foreach (Outcome rank in actual)
        {
            Models.AssertClose(expected.Losses, rank.Losses, 1e-4);
            Assert.Equal(actual[0].Losses, rank.Losses);
            Assert.Equal(actual[0].Parameters, rank.Parameters);
            Assert.Equal(expected.Evaluation.Loss, rank.Evaluation.Loss, 1e-4);
            Assert.Equal(expected.Evaluation.Accuracy, rank.Evaluation.Accuracy);
            Assert.Equal(100, rank.Evaluation.Samples);
        }
    }

    [Fact]
    public async Task A_tail_smaller_than_the_world_leaves_ranks_without_samples_and_the_result_the_same()
    {
        // 100 samples in batches of 33: the tail is a single sample, so three of four ranks have none.
        Outcome expected = await Train(new SingleProcess(), batch: 33);
        Outcome[] actual = await RankThreads.Run(4, group => Train(new DataParallel(group, Buckets(true)), batch: 33));
        Assert.All(actual, rank => Models.AssertClose(expected.Losses, rank.Losses, 1e-4));
    }

    [Theory]
    [InlineData(2, false)]
    [InlineData(3, true)]
    public async Task Accumulation_and_clipping_equal_the_pooled_gradient(int accumulation, bool overlap)
    {
        Outcome expected = await Train(new SingleProcess(), clip: 0.05);
        Outcome[] actual = await RankThreads.Run(2, group => Train(new DataParallel(group, Buckets(overlap)), accumulation: accumulation, clip: 0.05));
        foreach (Outcome rank in actual)
        {
            Models.AssertClose(expected.Losses, rank.Losses, 1e-4);
            Models.AssertClose(expected.Parameters, rank.Parameters, 1e-3, 1e-5);
            Assert.Equal(actual[0].Parameters, rank.Parameters);
        }
    }

    [Fact]
    public async Task Rank_0s_parameters_win()
    {
        Outcome expected = await Train(new SingleProcess(), seed: 1);
        Outcome[] actual = await RankThreads.Run(3, group => Train(new DataParallel(group), seed: 1 + group.Rank, make: static () => nn.Sequential(
            nn.Linear(20, 32), nn.Tanh(), nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 5))));
        Assert.All(actual, rank => Models.AssertClose(expected.Losses, rank.Losses, 1e-4));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Twice_the_same_run_is_bitwise_the_same(bool overlap)
    {
        Outcome[] first = await RankThreads.Run(3, group => Train(new DataParallel(group, Buckets(overlap))));
        Outcome[] second = await RankThreads.Run(3, group => Train(new DataParallel(group, Buckets(overlap))));
        Assert.Equal(first[0].Parameters, second[0].Parameters);
        Assert.Equal(first[0].Losses, second[0].Losses);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Shared_modules_and_unused_parameters_equal_one_process(bool overlap)
    {
        Outcome expected = await Train(new SingleProcess(), make: static () => new Entangled());
        Outcome[] actual = await RankThreads.Run(2, group => Train(new DataParallel(group, Buckets(overlap)), make: static () => new Entangled()));
        Assert.All(actual, rank => Models.AssertClose(expected.Losses, rank.Losses, 1e-4));
        Assert.All(actual, rank => Assert.Equal(actual[0].Parameters, rank.Parameters));
    }

    [Theory]
    [InlineData(false, ScalarType.Float32)]
    [InlineData(true, ScalarType.Float32)]
    [InlineData(true, ScalarType.Float64)]
    [InlineData(true, ScalarType.BFloat16)]
    public async Task A_hand_written_loop_leaves_the_mean_gradient_in_every_parameter(bool overlap, ScalarType type)
    {
        const int world = 3;
        using Tensor features = Models.Seeded(2, static () => randn(world * 8, 20));
        using Tensor labels = Models.Seeded(2, static () => randint(0, 5, [world * 8]));
        float[][][] gradients = await RankThreads.Run(world, group =>
        {
            using var strategy = new DataParallel(group, Buckets(overlap));
            using nn.Module<Tensor, Tensor> model = Models.Mlp();
            model.to(type);
            using var optimizer = optim.SGD(model.parameters(), 0);
            strategy.Attach(model);
            // Three rounds: the gradients of the first are zeroed in place, those of the second dropped.
            for (int round = 0; round < 3; round++)
            {
                using var scope = NewDisposeScope();
                if (round == 1) optimizer.zero_grad();
                if (round == 2) model.zero_grad(set_to_none: true);
                Tensor output = model.call(features.narrow(0, group.Rank * 8, 8).to(type));
                Models.CrossEntropy(output, labels.narrow(0, group.Rank * 8, 8)).backward();
                strategy.SynchronizeGradients();
            }

            return Models.Gradients(model);
        });

        using nn.Module<Tensor, Tensor> alone = Models.Mlp();
        alone.to(type);
        Models.CrossEntropy(alone.call(features.to(type)), labels).backward();
        float[][] expected = Models.Gradients(alone);
        foreach (float[][] rank in gradients)
        {
            for (int i = 0; i < expected.Length; i++)
            {
                Models.AssertClose(expected[i], rank[i], type == ScalarType.BFloat16 ? 0.1 : 1e-4, type == ScalarType.BFloat16 ? 2e-3 : 1e-6);
                Assert.Equal(gradients[0][i], rank[i]);
            }
        }
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task NoSync_accumulates_to_the_big_batch(bool overlap)
    {
        using Tensor features = Models.Seeded(2, static () => randn(24, 20));
        using Tensor labels = Models.Seeded(2, static () => randint(0, 5, [24]));
        float[][][] gradients = await RankThreads.Run(2, group =>
        {
            using var strategy = new DataParallel(group, Buckets(overlap));
            using nn.Module<Tensor, Tensor> model = Models.Mlp();
            strategy.Attach(model);
            for (int i = 0; i < 3; i++)
            {
                using var scope = NewDisposeScope();
                using IDisposable? pause = i < 2 ? strategy.NoSync() : null;
                int start = (i * 8) + (group.Rank * 4);
                (Models.CrossEntropy(model.call(features.narrow(0, start, 4)), labels.narrow(0, start, 4)) / 3).backward();
            }

            strategy.SynchronizeGradients();
            return Models.Gradients(model);
        });

        using nn.Module<Tensor, Tensor> alone = Models.Mlp();
        Models.CrossEntropy(alone.call(features), labels).backward();
        float[][] expected = Models.Gradients(alone);
        Assert.All(gradients, rank => Assert.All(expected.Zip(rank), static pair => Models.AssertClose(pair.First, pair.Second, 1e-4, 1e-6)));
    }

    [Fact]
    public async Task A_parameter_unused_on_every_rank_keeps_no_gradient_and_one_used_on_some_counts_as_zero_elsewhere()
    {
        bool[][] present = await RankThreads.Run(2, group =>
        {
            using var strategy = new DataParallel(group, Buckets(true));
            using nn.Module<Tensor, Tensor> first = nn.Linear(4, 4), second = nn.Linear(4, 4), third = nn.Linear(4, 4);
            using nn.Module<Tensor, Tensor> model = nn.Sequential(first, second, third);
            strategy.Attach(model);
            (group.Rank == 0 ? second : first).call(ones(1, 4)).sum().backward();
            strategy.SynchronizeGradients();
            if (group.Rank == 0)
            {
                // Rank 0's input gradient of a sum is 1 for every weight, rank 1 adds zero: the mean is a half.
                Models.AssertClose(Enumerable.Repeat(0.5f, 16).ToArray(), second.parameters().First().grad!.data<float>().ToArray(), 0);
            }

            return model.parameters().Select(static parameter => parameter.grad is not null).ToArray();
        });
        Assert.All(present, static rank => Assert.Equal([true, true, true, true, false, false], rank));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(null)]
    public async Task Unless_overlap_is_asked_for_two_models_may_take_turns_with_backward_passes_through_both(bool? overlap)
    {
        float[][] expected = await RankThreads.Run(1, group => Play(group, null));
        float[][] actual = await RankThreads.Run(2, group => Play(group, overlap));
        Models.AssertClose(expected[0], actual[0], 1e-5, 1e-6);
        Assert.Equal(actual[0], actual[1]);

        // A generator against a discriminator, whose gradients of the first pass are dropped.
        static float[] Play(Collectives.ProcessGroup group, bool? overlap)
        {
            var options = new DataParallelOptions { BucketBytes = 64, FirstBucketBytes = 64, Overlap = overlap };
            using nn.Module<Tensor, Tensor> generator = Models.Seeded(1, static () => nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8)));
            using nn.Module<Tensor, Tensor> discriminator = Models.Seeded(2, static () => nn.Sequential(nn.Linear(8, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1)));
            using var first = new DataParallel(group, options);
            using var second = new DataParallel(group, options);
            first.Attach(generator);
            second.Attach(discriminator);
            using var generatorOptimizer = optim.SGD(generator.parameters(), 0.05);
            using var discriminatorOptimizer = optim.SGD(discriminator.parameters(), 0.05);
            using var random = new Generator(9, CPU);
            int count = 8 / group.WorldSize;
            for (int step = 0; step < 5; step++)
            {
                using var scope = NewDisposeScope();
                Tensor noise = randn([8, 4], generator: random).narrow(0, group.Rank * count, count), real = randn([8, 8], generator: random).narrow(0, group.Rank * count, count) + 2;
                generatorOptimizer.zero_grad();
                Tensor fake = generator.call(noise);
                nn.functional.binary_cross_entropy_with_logits(discriminator.call(fake), ones(count, 1)).backward();
                first.SynchronizeGradients();
                generatorOptimizer.step();
                discriminatorOptimizer.zero_grad();
                (nn.functional.binary_cross_entropy_with_logits(discriminator.call(real), ones(count, 1))
                    + nn.functional.binary_cross_entropy_with_logits(discriminator.call(fake.detach()), zeros(count, 1))).backward();
                second.SynchronizeGradients();
                discriminatorOptimizer.step();
            }

            return [.. Models.Parameters(generator), .. Models.Parameters(discriminator)];
        }
    }

    [Fact]
    public async Task Backward_twice_without_NoSync_is_an_error_that_names_the_parameter()
    {
        var error = await Assert.ThrowsAsync<AggregateException>(() => RankThreads.Run(2, group =>
        {
            using var strategy = new DataParallel(group, Buckets(true));
            using nn.Module<Tensor, Tensor> model = Models.Mlp();
            strategy.Attach(model);
            for (int i = 0; i < 2; i++) model.call(ones(2, 20)).sum().backward();
            strategy.SynchronizeGradients();
            return 0;
        }));
        Assert.Equal(2, error.InnerExceptions.Count);
        Assert.All(error.InnerExceptions, static inner => Assert.Contains("'4.bias' got a gradient after its bucket had been sent", inner.Message, StringComparison.Ordinal));
    }

    [Fact]
    public async Task Ranks_with_different_models_get_an_error_that_names_tensor_and_ranks()
    {
        var error = await Assert.ThrowsAsync<AggregateException>(() => RankThreads.Run(3, group =>
        {
            using var strategy = new DataParallel(group);
            using nn.Module<Tensor, Tensor> model = nn.Sequential(nn.Linear(4, group.Rank == 1 ? 6 : 5));
            strategy.Attach(model);
            return 0;
        }));
        Assert.Equal(3, error.InnerExceptions.Count);
        Assert.All(error.InnerExceptions, static inner => Assert.Equal(
            "the ranks hold different models: tensor 0 is '0.weight' Float32[5, 4] on ranks 0, 2, but '0.weight' Float32[6, 4] on rank 1; " +
            "build the same model on every rank",
            inner.Message));
    }

    [Fact]
    public async Task One_rank_with_a_layer_more_is_an_error_too()
    {
        var error = await Assert.ThrowsAsync<AggregateException>(() => RankThreads.Run(2, group =>
        {
            using var strategy = new DataParallel(group);
            using nn.Module<Tensor, Tensor> model = group.Rank == 0 ? nn.Sequential(nn.Linear(4, 4)) : nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4));
            strategy.Attach(model);
            return 0;
        }));
        Assert.All(error.InnerExceptions, static inner => Assert.Contains("tensor 2 is missing on rank 0, but '1.weight' Float32[4, 4] on rank 1", inner.Message, StringComparison.Ordinal));
    }

    [Fact]
    public async Task Cancelling_one_rank_ends_all_after_the_same_step()
    {
        using var source = new CancellationTokenSource();
        long[] steps = await RankThreads.Run(3, async group =>
        {
            using InMemoryDataset data = Models.Data();
            using nn.Module<Tensor, Tensor> model = Models.Mlp();
            using var optimizer = optim.SGD(model.parameters(), 0.1);
            using var strategy = new DataParallel(group);
            long last = 0;
            var trainer = new Trainer(model, optimizer, Models.CrossEntropy)
            {
                Strategy = strategy,
                BatchSize = 12,
                StepCompleted = info =>
                {
                    last = info.Step;
                    if (group.Rank == 1 && info.Step == 9) source.Cancel();
                },
            };
            await Assert.ThrowsAnyAsync<OperationCanceledException>(() => trainer.FitAsync(data, 10_000, group.Rank == 1 ? source.Token : default));
            return last;
        });
        Assert.All(steps, static step => Assert.Equal(10, step));
    }

    /// <summary>One layer called twice, one weight used by two layers, one layer never called.</summary>
    private sealed class Entangled : nn.Module<Tensor, Tensor>
    {
        private readonly nn.Module<Tensor, Tensor> unused = nn.Linear(7, 9);
        private readonly nn.Module<Tensor, Tensor> first = nn.Linear(20, 16);
        private readonly nn.Module<Tensor, Tensor> twice = nn.Linear(16, 16);
        private readonly TorchSharp.Modules.Linear tied = nn.Linear(16, 5);
        private readonly nn.Module<Tensor, Tensor> last = nn.Linear(5, 16);

        public Entangled() : base(nameof(Entangled)) => RegisterComponents();

        public override Tensor forward(Tensor input)
        {
            Tensor hidden = twice.call(twice.call(first.call(input)).tanh()).tanh();
            Tensor wide = last.call(tied.call(hidden)).tanh();
            return nn.functional.linear(wide, tied.weight!);
        }

        protected override void Dispose(bool disposing)
        {
            if (disposing)
            {
                unused.Dispose();
                first.Dispose();
                twice.Dispose();
                tied.Dispose();
                last.Dispose();
            }

            base.Dispose(disposing);
        }
    }
}

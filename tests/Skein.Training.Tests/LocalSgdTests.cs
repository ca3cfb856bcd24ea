using Skein.Training.Data;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.Tests;

/// <summary>Against the same algorithm written down for all ranks in one loop.</summary>
public class LocalSgdTests
{
    private const int Batch = 24;
    private const int Seed = 3;
    private const double Rate = 0.1;

    public static TheoryData<int, LocalSgdOptions> Settings => new()
    {
        { 2, new LocalSgdOptions { LocalSteps = 1 } },
        { 3, new LocalSgdOptions { LocalSteps = 4 } },
        { 2, new LocalSgdOptions { LocalSteps = 5, SynchronousSteps = 7 } },
        { 2, LocalSgdOptions.DiLoCo(4) },
        { 3, LocalSgdOptions.DiLoCo(6) with { Fragments = 3 } },
        { 2, new LocalSgdOptions { LocalSteps = 8, Fragments = 2 } },
    };

    [Theory]
    [MemberData(nameof(Settings))]
    public async Task Ranks_end_where_the_algorithm_on_paper_does(int ranks, LocalSgdOptions options)
    {
        const int Steps = 22;
        (float[] expected, float[] losses) = OnPaper(ranks, options, Steps);
        (float[] Parameters, IReadOnlyList<float> Losses)[] actual = await RankThreads.Run(ranks, group => Train(new LocalSgd(group, options), Steps));
        foreach ((float[] parameters, _) in actual)
        {
            Models.AssertClose(expected, parameters, 1e-4, 1e-6);
            Assert.Equal(actual[0].Parameters, parameters);
        }

        Models.AssertClose(losses, [.. actual[0].Losses], 1e-4);
    }

    [Fact]
    public async Task Meeting_after_every_step_is_data_parallel()
    {
        (float[] Parameters, IReadOnlyList<float> Losses)[] expected = await RankThreads.Run(2, group => Train(new DataParallel(group), 30));
        (float[] Parameters, IReadOnlyList<float> Losses)[] actual = await RankThreads.Run(2, group => Train(new LocalSgd(group, new LocalSgdOptions { LocalSteps = 1 }), 30));
        Models.AssertClose(expected[0].Parameters, actual[0].Parameters, 1e-4, 1e-6);
    }

    [Fact]
    public async Task Bytes_fall_by_the_number_of_local_steps()
    {
        // Of 32 steps more, without what ranks tell each other before the first one.
        long[] every = await RankThreads.Run(2, async group => await Sent(group, 1, 64) - await Sent(group, 1, 32));
        long[] eighth = await RankThreads.Run(2, async group => await Sent(group, 8, 64) - await Sent(group, 8, 32));
        Assert.Equal(every[0], 8 * eighth[0]);

        static async Task<long> Sent(Collectives.ProcessGroup group, int localSteps, int steps)
        {
            using var strategy = new LocalSgd(group, new LocalSgdOptions { LocalSteps = localSteps });
            using nn.Module<Tensor, Tensor> model = Models.Mlp();
            strategy.Attach(model);
            long before = group.BytesSent;
            await Train(strategy, steps, model);
            return group.BytesSent - before;
        }
    }

    [Fact]
    public async Task A_rank_that_stops_ends_all_when_they_meet_next_with_equal_parameters()
    {
        float[][] ends = await RankThreads.Run(3, async group =>
        {
            using var cancellation = new CancellationTokenSource();
            using nn.Module<Tensor, Tensor> model = Models.Mlp();
            using InMemoryDataset data = Models.Data();
            using var optimizer = optim.SGD(model.parameters(), Rate);
            using var strategy = new LocalSgd(group, new LocalSgdOptions { LocalSteps = 4 });
            int last = 0;
            var trainer = new Trainer(model, optimizer, Models.CrossEntropy)
            {
                Strategy = strategy,
                BatchSize = Batch,
                StepCompleted = step =>
                {
                    last = (int)step.Step;
                    if (step.Step == 5 && group.Rank == 1) cancellation.Cancel();
                },
            };
            await Assert.ThrowsAnyAsync<OperationCanceledException>(() => trainer.FitAsync(data, 100, cancellation.Token));
            Assert.Equal(9, last);
            return Models.Parameters(model);
        });
        Assert.All(ends, end => Assert.Equal(ends[0], end));
    }

    [Fact]
    public async Task Fragments_that_have_just_met_do_not_meet_again_at_the_end()
    {
        // Gradient 1 in each step at rate 1; the bias's fragment meets after steps 4 and 8, each time with a mean difference of 4:
        // velocity 4, then 0.9 * 4 + 4 = 7.6; anchor -0.7 * (4 + 0.9 * 4) = -5.32, then -5.32 - 0.7 * (4 + 0.9 * 7.6) = -12.908.
        float[] biases = await RankThreads.Run(2, async group =>
        {
            using var data = new InMemoryDataset(ones(64, 1), zeros(64));
            using Linear model = nn.Linear(1, 1);
            using (no_grad()) foreach (Parameter parameter in model.parameters()) parameter.zero_();
            using var optimizer = optim.SGD(model.parameters(), 1);
            using var strategy = new LocalSgd(group, LocalSgdOptions.DiLoCo(4) with { Fragments = 2 });
            var trainer = new Trainer(model, optimizer, static (output, _) => output.mean()) { Strategy = strategy, BatchSize = 8, MaxSteps = 8 };
            await trainer.FitAsync(data);
            return model.bias!.item<float>();
        });
        Assert.All(biases, bias => Assert.Equal(-12.908f, bias, 1e-4f));
    }

    [Fact]
    public async Task A_fit_after_a_cancelled_one_runs_to_its_end() => await RankThreads.Run(2, async group =>
    {
        using var strategy = new LocalSgd(group, new LocalSgdOptions { LocalSteps = 4 });
        await FitsAfterCancellation.Check(strategy, group.Rank);
        return true;
    });

    [Theory]
    [InlineData(0, 0, 1, 0, 1, "the number of local steps is 0")]
    [InlineData(4, -1, 1, 0, 1, "the number of synchronous steps is -1")]
    [InlineData(4, 0, 0, 0, 1, "the outer learning rate is 0")]
    [InlineData(4, 0, double.NaN, 0, 1, "the outer learning rate is NaN")]
    [InlineData(4, 0, 1, 1, 1, "the outer momentum is 1")]
    [InlineData(4, 0, 1, 0, 5, "the number of fragments is 5: give a whole number from 1 to the number of local steps, 4")]
    public void Numbers_out_of_range_are_refused(int steps, long synchronous, double rate, double momentum, int fragments, string message)
    {
        var options = new LocalSgdOptions { LocalSteps = steps, SynchronousSteps = synchronous, OuterLearningRate = rate, OuterMomentum = momentum, Fragments = fragments };
        Assert.StartsWith(message, Assert.Throws<ArgumentException>(options.Validate).Message, StringComparison.Ordinal);
    }

    private static async Task<(float[] Parameters, IReadOnlyList<float> Losses)> Train(Strategy strategy, int steps, nn.Module<Tensor, Tensor>? given = null)
    {
        using InMemoryDataset data = Models.Data();
        nn.Module<Tensor, Tensor> model = given ?? Models.Mlp();
        using var optimizer = optim.SGD(model.parameters(), Rate, momentum: 0.9);
        var trainer = new Trainer(model, optimizer, Models.CrossEntropy) { Strategy = strategy, BatchSize = Batch, MaxSteps = steps, Seed = Seed };
        TrainingReport report = await trainer.FitAsync(data, epochs: 1000);
        float[] parameters = Models.Parameters(model);
        if (given is null)
        {
            strategy.Dispose();
            model.Dispose();
        }

        return (parameters, report.LossHistory);
    }

    /// <summary>All ranks in one loop: momentum SGD inside, Nesterov outside, parameter by parameter.</summary>
    private static (float[] Parameters, float[] Losses) OnPaper(int ranks, LocalSgdOptions options, int steps)
    {
        using var scope = NewDisposeScope();
        using InMemoryDataset data = Models.Data();
        nn.Module<Tensor, Tensor>[] models = [.. Enumerable.Range(0, ranks).Select(_ => Models.Mlp())];
        Parameter[][] parameters = [.. models.Select(static model => model.parameters().ToArray())];
        optim.Optimizer[] optimizers = [.. models.Select(static model => optim.SGD(model.parameters(), Rate, momentum: 0.9))];
        Tensor[] anchors = [.. parameters[0].Select(static parameter => parameter.detach().clone())];
        Tensor[] velocities = [.. anchors.Select(static anchor => zeros_like(anchor))];
        int[] fragmentOf = Fragments(parameters[0], options.Fragments);
        int fragments = fragmentOf.Distinct().Count();
        var losses = new float[steps];
        DistributedSampler[] samplers = [.. Enumerable.Range(0, ranks).Select(rank => new DistributedSampler(data.Count, Batch, rank, ranks, Seed))];
        for (int step = 0; step < steps; step++)
        {
            int perEpoch = samplers[0].BatchesPerEpoch;
            for (int rank = 0; rank < ranks; rank++)
            {
                samplers[rank].SetEpoch(step / perEpoch);
                (int start, int count) = samplers[rank].LocalSlice(step % perEpoch);
                (Tensor features, Tensor labels) = data.Gather(tensor(samplers[rank].Order.ToArray()).narrow(0, start, count), CPU);
                optimizers[rank].zero_grad();
                Tensor loss = Models.CrossEntropy(models[rank].call(features), labels);
                loss.backward();
                optimizers[rank].step();
                if (rank == 0) losses[step] = loss.item<float>();
            }

            bool synchronous = step < options.SynchronousSteps;
            bool end = step == steps - 1;
            for (int i = 0; i < anchors.Length; i++)
            {
                int meets = (fragmentOf[i] + 1) * options.LocalSteps / fragments % options.LocalSteps;
                bool due = synchronous || (step + 1) % options.LocalSteps == meets;
                if (due) Meet(i, synchronous);
                if (end && !due) Meet(i, synchronous);
            }
        }

        return (Models.Parameters(models[0]), losses);

        void Meet(int i, bool average)
        {
            using var noGradient = no_grad();
            Tensor mean = anchors[i] - stack(parameters.Select(rank => rank[i].detach())).mean([0]);
            (double rate, double momentum) = average ? (1, 0) : (options.OuterLearningRate, options.OuterMomentum);
            if (momentum > 0) velocities[i] = (velocities[i] * momentum) + mean;
            anchors[i] -= (mean + (velocities[i] * momentum)) * rate;
            foreach (Parameter[] rank in parameters) rank[i].copy_(anchors[i]);
        }
    }

    /// <summary>The fragment of the middle of each parameter, where fragments cut the model into equal lengths.</summary>
    private static int[] Fragments(Parameter[] parameters, int count)
    {
        long total = parameters.Sum(static parameter => parameter.numel()), before = 0;
        var found = new int[parameters.Length];
        for (int i = 0; i < found.Length; i++)
        {
            found[i] = (int)(((2 * before) + parameters[i].numel()) * count / (2 * total));
            before += parameters[i].numel();
        }

        int[] distinct = [.. found.Distinct()];
        return [.. found.Select(fragment => Array.IndexOf(distinct, fragment))];
    }
}

using Skein.Collectives;
using Skein.Training.Compression;
using Skein.Training.Data;
using Skein.Training.Decentralized;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.Tests;

/// <summary>Against the same algorithm written down for all ranks in one loop.</summary>
public class GossipTests
{
    private const int Batch = 24;
    private const int Seed = 3;
    private const double Rate = 0.1;

    [Theory]
    [InlineData(4, "ring")]
    [InlineData(6, "grid")]
    [InlineData(4, "exponential")]
    [InlineData(6, "random:3")]
    [InlineData(1, "ring")]
    public async Task Ranks_end_where_the_algorithm_on_paper_does(int ranks, string topology)
    {
        const int Steps = 18;
        var options = new GossipOptions { Topology = GossipTopology.Parse(topology), MeasureEvery = 5, Seed = 2 };
        (float[] expected, double[] distances) = OnPaper(ranks, options, Steps);
        Run[] actual = await RankThreads.Run(ranks, group => Train(group, options, Steps));
        foreach (Run run in actual)
        {
            Models.AssertClose(expected, run.Parameters, 1e-4, 1e-6);
            Assert.Equal(actual[0].Parameters, run.Parameters);
            Assert.Equal([5, 10, 15], run.History.Select(static value => value.Step));
            foreach (ConsensusDistance value in run.History) Assert.Equal(distances[value.Step - 1], value.Distance, (1e-4 * distances[value.Step - 1]) + 1e-6);
            Assert.Equal(distances[^1], run.Distance, (1e-4 * distances[^1]) + 1e-6);
        }
    }

    [Fact]
    public async Task The_complete_graph_keeps_the_ranks_as_near_as_one_step_takes_them_and_learns_as_data_parallel_does()
    {
        Run[] gossip = await RankThreads.Run(4, group => Train(group, new GossipOptions { Topology = GossipTopology.Parse("complete") }, 60));
        float[] parallel = (await RankThreads.Run(4, group =>
        {
            using var strategy = new DataParallel(group);
            return Fit(strategy, 60, null);
        }))[0];
        double distance = Norm(gossip[0].Parameters, parallel), travelled = Norm(parallel, Models.Parameters(Models.Mlp()));
        Assert.True(distance < 0.1 * travelled, $"{distance} from data parallel after {travelled}");
    }

    [Fact]
    public async Task Compressed_gossip_learns_nearly_what_uncompressed_gossip_does()
    {
        var options = new GossipOptions { Compression = CompressionSpec.Parse("topk:0.1"), ConsensusStep = 0.3 };
        Run[] compressed = await RankThreads.Run(4, group => Train(group, options, 100));
        Run[] plain = await RankThreads.Run(4, group => Train(group, options with { Compression = CompressionSpec.None }, 100));
        Assert.All(compressed, run => Assert.Equal(compressed[0].Parameters, run.Parameters));
        double distance = Norm(compressed[0].Parameters, plain[0].Parameters), travelled = Norm(plain[0].Parameters, Models.Parameters(Models.Mlp()));
        Assert.True(distance < 0.25 * travelled, $"{distance} from plain gossip after {travelled}");
    }

    [Theory]
    [InlineData("topk:0.1", 0.1, 2000)]
    [InlineData("topk:0.1", 0.05, 2000)]
    [InlineData("qsgd:4", 0.3, 600)]
    [InlineData("signsgd", 0.1, 600)]
    public void Compressed_differences_bring_the_peers_to_their_mean(string compression, double step, int rounds)
    {
        const int Peers = 5, Length = 200;
        MixingMatrix mixing = MixingMatrix.MetropolisHastings(GossipTopology.Ring.Neighbours(Peers, 0));
        var random = new Random(1);
        float[][] values = [.. Enumerable.Range(0, Peers).Select(_ => Enumerable.Range(0, Length).Select(_ => random.NextSingle()).ToArray())];
        double[] mean = [.. Enumerable.Range(0, Length).Select(i => values.Average(one => (double)one[i]))];
        PublicCopies[] copies = [.. values.Select(_ => new PublicCopies(CompressionSpec.Parse(compression), 1, new float[Length]))];
        double before = Distance();
        var change = new float[Length];
        for (int time = 0; time < rounds; time++)
        {
            byte[][] messages = [.. values.Select((one, peer) =>
            {
                var payload = new byte[copies[peer].Capacity];
                return payload[..copies[peer].Publish(one, mixing[peer, peer], payload)];
            })];
            for (int peer = 0; peer < Peers; peer++)
            {
                for (int other = 0; other < Peers; other++)
                {
                    if (other != peer && mixing[peer, other] > 0) copies[peer].Mix(messages[other], mixing[peer, other]);
                }

                copies[peer].Change(step, change);
                for (int i = 0; i < Length; i++) values[peer][i] += change[i];
            }
        }

        Assert.True(Distance() < 0.01 * before, $"{Distance()} after {before}");
        // Float32 rounding of the copies, which in the first rounds of quantisation are far larger than the values.
        for (int i = 0; i < Length; i++) Assert.Equal(mean[i], values.Average(one => (double)one[i]), 1e-3);

        double Distance() => Math.Sqrt(values.Sum(one => one.Index().Sum(entry => Math.Pow(entry.Item - mean[entry.Index], 2))));
    }

    [Fact]
    public async Task The_same_run_twice_is_bitwise_the_same()
    {
        var options = new GossipOptions { Topology = GossipTopology.Parse("exponential") };
        Run[] first = await RankThreads.Run(5, group => Train(group, options, 10));
        Run[] second = await RankThreads.Run(5, group => Train(group, options, 10));
        Assert.Equal(first[0].Parameters, second[0].Parameters);
    }

    [Fact]
    public async Task A_rank_that_stops_ends_all_after_the_same_step()
    {
        const int Ranks = 5;
        (int Last, float[] Parameters)[] ends = await RankThreads.Run(Ranks, async group =>
        {
            using var cancellation = new CancellationTokenSource();
            using nn.Module<Tensor, Tensor> model = Models.Mlp();
            using InMemoryDataset data = Models.Data();
            using var optimizer = optim.SGD(model.parameters(), Rate);
            using var strategy = new Gossip(group);
            int last = 0;
            var trainer = new Trainer(model, optimizer, Models.CrossEntropy)
            {
                Strategy = strategy,
                BatchSize = Batch,
                StepCompleted = step =>
                {
                    last = (int)step.Step;
                    if (step.Step == 7 && group.Rank == 2) cancellation.Cancel();
                },
            };
            await Assert.ThrowsAnyAsync<OperationCanceledException>(() => trainer.FitAsync(data, 1000, cancellation.Token));
            return (last, Models.Parameters(model));
        });
        Assert.All(ends, end => Assert.Equal(7 + 1 + Ranks, end.Last));
        Assert.All(ends, end => Assert.Equal(ends[0].Parameters, end.Parameters));
    }

    [Theory]
    [InlineData(null)]
    [InlineData("int8")]
    public async Task A_fit_after_a_cancelled_one_runs_to_its_end(string? compression) => await RankThreads.Run(3, async group =>
    {
        using var strategy = new Gossip(group, new GossipOptions { Compression = CompressionSpec.Parse(compression ?? "none") });
        await FitsAfterCancellation.Check(strategy, group.Rank);
        return true;
    });

    [Fact]
    public async Task Skewed_shares_put_the_ranks_further_apart()
    {
        double[] distances = new double[2];
        foreach ((int index, DataPartition? partition) in new[] { null, new DataPartition(0.05) }.Index())
        {
            distances[index] = (await RankThreads.Run(4, group => Train(group, new GossipOptions(), 20, partition)))[0].Distance;
        }

        Assert.True(distances[1] > 1.5 * distances[0], $"{distances[1]} with skew, {distances[0]} without");
    }

    [Theory]
    [InlineData(8, "ring")]
    [InlineData(8, "exponential")]
    [InlineData(6, "random:3")]
    public async Task Without_gradients_the_ranks_come_together_as_fast_as_the_spectral_gap_says(int ranks, string topology)
    {
        // ‖W x - x̄‖ ≤ (1 - gap) ‖x - x̄‖, and from a random start the slowest mode is what is left in the end.
        var options = new GossipOptions { Topology = GossipTopology.Parse(topology), MeasureEvery = 1, Seed = 2 };
        (double Gap, double[] Distances)[] all = await RankThreads.Run(ranks, async group =>
        {
            using InMemoryDataset data = Models.Data();
            using nn.Module<Tensor, Tensor> model = Models.Mlp();
            using var optimizer = optim.SGD(model.parameters(), 0.0);
            using var strategy = new Gossip(group, options);
            strategy.Attach(model);
            Models.Seeded(group.Rank, () =>
            {
                using var noGradient = no_grad();
                foreach (Parameter parameter in model.parameters()) parameter.add_(randn_like(parameter));
                return true;
            });
            var trainer = new Trainer(model, optimizer, Models.CrossEntropy) { Strategy = strategy, BatchSize = Batch, MaxSteps = 24, Seed = Seed };
            await trainer.FitAsync(data, epochs: 1000);
            return (strategy.Mixing.SpectralGap(), strategy.ConsensusHistory.Select(static value => value.Distance).ToArray());
        });
        (double gap, double[] distances) = all[0];
        double[] above = [.. distances.Where(static distance => distance > 1e-3)];
        double[] factors = [.. above.Skip(1).Zip(above, static (next, before) => next / before)];
        Assert.True(factors.Length >= 5, $"{factors.Length} distances above rounding");
        Assert.All(factors, factor => Assert.InRange(factor, 0, 1 - gap + 1e-3));
        Assert.InRange(factors[^1], (1 - gap) * 0.8, 1 - gap + 1e-3);
    }

    [Fact]
    public void A_history_keeps_the_measurements_of_a_long_run_few_and_regular()
    {
        var history = new ConsensusHistory(2);
        int measured = 0;
        for (long step = 1; step <= 100_000; step++)
        {
            if (!history.IsDue(step)) continue;
            history.Add(step, step);
            measured++;
        }

        Assert.InRange(history.Values.Count, GossipOptions.HistoryLimit / 2, GossipOptions.HistoryLimit);
        Assert.InRange(measured, GossipOptions.HistoryLimit, 2000);
        long interval = history.Values[1].Step - history.Values[0].Step;
        Assert.All(history.Values.Index(), entry => Assert.Equal((entry.Index + 1) * interval, entry.Item.Step));
    }

    private sealed record Run(float[] Parameters, double Distance, IReadOnlyList<ConsensusDistance> History);

    private static async Task<Run> Train(ProcessGroup group, GossipOptions options, int steps, DataPartition? partition = null)
    {
        using var strategy = new Gossip(group, options);
        float[] parameters = await Fit(strategy, steps, partition);
        return new Run(parameters, strategy.ConsensusDistance, strategy.ConsensusHistory);
    }

    private static async Task<float[]> Fit(Strategy strategy, int steps, DataPartition? partition)
    {
        using InMemoryDataset data = Models.Data();
        using nn.Module<Tensor, Tensor> model = Models.Mlp();
        using var optimizer = optim.SGD(model.parameters(), Rate, momentum: 0.9);
        var trainer = new Trainer(model, optimizer, Models.CrossEntropy) { Strategy = strategy, BatchSize = Batch, MaxSteps = steps, Seed = Seed, Partition = partition };
        await trainer.FitAsync(data, epochs: 1000);
        return Models.Parameters(model);
    }

    /// <summary>Lian et al. 2017, algorithm 1, with momentum in place of the plain gradient step.</summary>
    private static (float[] Parameters, double[] Distances) OnPaper(int ranks, GossipOptions options, int steps)
    {
        using var scope = NewDisposeScope();
        using InMemoryDataset data = Models.Data();
        MixingMatrix mixing = MixingMatrix.MetropolisHastings(options.Topology.Neighbours(ranks, options.Seed));
        nn.Module<Tensor, Tensor>[] models = [.. Enumerable.Range(0, ranks).Select(_ => Models.Mlp())];
        Parameter[][] parameters = [.. models.Select(static model => model.parameters().ToArray())];
        Tensor[][] velocities = [.. parameters.Select(static list => list.Select(static parameter => zeros_like(parameter)).ToArray())];
        DistributedSampler[] samplers = [.. Enumerable.Range(0, ranks).Select(rank => new DistributedSampler(data.Count, Batch, rank, ranks, Seed))];
        var distances = new double[steps];
        for (int step = 0; step < steps; step++)
        {
            int perEpoch = samplers[0].BatchesPerEpoch;
            Tensor[][] before = [.. parameters.Select(static list => list.Select(static parameter => parameter.detach().clone()).ToArray())];
            for (int rank = 0; rank < ranks; rank++)
            {
                samplers[rank].SetEpoch(step / perEpoch);
                (int start, int count) = samplers[rank].LocalSlice(step % perEpoch);
                (Tensor features, Tensor labels) = data.Gather(tensor(samplers[rank].Order.ToArray()).narrow(0, start, count), CPU);
                models[rank].zero_grad();
                Models.CrossEntropy(models[rank].call(features), labels).backward();
                using var noGradient = no_grad();
                for (int i = 0; i < parameters[rank].Length; i++)
                {
                    velocities[rank][i] = (velocities[rank][i] * 0.9) + parameters[rank][i].grad!;
                    Tensor mixed = zeros_like(before[rank][i]);
                    for (int other = 0; other < ranks; other++) mixed += before[other][i] * mixing[rank, other];
                    parameters[rank][i].copy_(mixed - (velocities[rank][i] * Rate));
                }
            }

            float[][] all = [.. models.Select(static model => Models.Parameters(model))];
            distances[step] = Math.Sqrt(all.Average(one => one.Index().Sum(entry => Math.Pow(entry.Item - all.Average(other => other[entry.Index]), 2))));
        }

        float[][] ends = [.. models.Select(static model => Models.Parameters(model))];
        return ([.. Enumerable.Range(0, ends[0].Length).Select(i => ends.Average(end => end[i]))], distances);
    }

    private static double Norm(float[] first, float[] second) => Math.Sqrt(first.Zip(second).Sum(static pair => Math.Pow(pair.First - pair.Second, 2)));
}

using Skein.Collectives;
using Skein.Training.Data;
using static TorchSharp.torch;

namespace Skein.Training.Tests;

/// <summary>Stochastic gradient push over real sockets.</summary>
public class GossipPushTests
{
    private const int Batch = 24;
    private const int Seed = 3;

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(4)]
    [InlineData(5)]
    public async Task Peers_lose_no_mass_and_end_with_the_same_parameters(int peers)
    {
        Run[] runs = await Peers.Run(peers, place => Train(place, 0.1, 40));
        Assert.All(runs, run => Assert.Equal(peers, run.Weight, 1e-9));
        Assert.All(runs, run => Assert.Equal(runs[0].Parameters, run.Parameters));
        Assert.All(runs, run => Assert.Equal(peers, run.Finished));
    }

    [Fact]
    public async Task Without_gradients_the_peers_stay_at_rank_0s_model()
    {
        float[] initial = Models.Parameters(Models.Mlp());
        // Each begins with another model, and takes rank 0's.
        Run[] runs = await Peers.Run(4, place => Train(place, 0, 50, seed: 1 + place.Rank));
        Assert.All(runs, run => Models.AssertClose(initial, run.Parameters, 1e-5, 1e-6));
        Assert.All(runs, run => Assert.InRange(run.Distance, 0, 1e-4));
    }

    [Fact]
    public async Task Four_peers_learn_nearly_what_a_single_process_does()
    {
        using var single = new SingleProcess();
        double alone = (await Fit(single, 0.1, 150)).Loss;
        double before = (await Fit(single, 0, 1)).Loss;
        // Steps that last longer than messages take, as in earnest.
        Run[] runs = await Peers.Run(4, place => Train(place, 0.1, 150, slowdown: 10));
        // Asynchronous, so that no two runs are the same: most of the way down is asked for. How exact they are where every
        // order of messages leads to the same is in GossipPushReturnTests.
        Assert.All(runs, run => Assert.True(run.Loss < alone + (0.25 * (before - alone)), $"{run.Loss} after push, {alone} alone, from {before}"));
    }

    [Fact]
    public async Task A_peer_that_vanishes_is_left_behind_and_the_others_finish()
    {
        const int Vanishing = 2;
        Run?[] runs = await Peers.Run<Run?>(4, async place =>
        {
            try
            {
                return await Train(place, 0.1, 200, vanishAfter: place.Rank == Vanishing ? 20 : null);
            }
            catch (EndOfStreamException) when (place.Rank == Vanishing)
            {
                return null;
            }
        });
        Assert.Null(runs[Vanishing]);
        Run[] survivors = [.. runs.OfType<Run>()];
        Assert.Equal(3, survivors.Length);
        Assert.All(survivors, run => Assert.Equal(3, run.Finished));
        Assert.All(survivors, run => Assert.Equal(survivors[0].Parameters, run.Parameters));
        Assert.All(survivors, run => Assert.Equal(3, run.Rows));
        // What the lost one had at its end is gone; those who had too little for long took their weight as 1.
        Assert.InRange(survivors[0].Weight, 1, 6);
    }

    [Fact]
    public async Task Without_rank_0_the_others_end_in_an_error_that_names_it()
    {
        string[] errors = await Peers.Run(3, async place =>
        {
            Exception error = await Assert.ThrowsAnyAsync<Exception>(() => Train(place, 0.1, 1_000_000, vanishAfter: place.Rank == 0 ? 20 : null));
            Assert.IsType(place.Rank == 0 ? typeof(EndOfStreamException) : typeof(PeerLostException), error);
            return error.Message;
        });
        Assert.Equal("rank 0 was lost (its connection ended) while rank 2 needed it in training; stochastic gradient push outlives any rank but 0", errors[2]);
    }

    [Fact]
    public async Task Peers_with_different_models_each_say_whose()
    {
        string[] errors = await Peers.Run(3, async place =>
        {
            using GossipPush strategy = await GossipPush.JoinAsync(place);
            using nn.Module<Tensor, Tensor> model = place.Rank == 1 ? nn.Linear(3, 4) : nn.Linear(4, 4);
            return Assert.Throws<InvalidOperationException>(() => strategy.Attach(model)).Message;
        });
        Assert.All(errors, error => Assert.Equal("the ranks hold different models: that of rank 0 is not that of rank 1; build the same model on every rank", error));
    }

    [Fact]
    public async Task A_peer_that_never_comes_is_named()
    {
        await Peers.Run(3, async place =>
        {
            if (place.Rank == 2) return 0;
            using GossipPush strategy = await GossipPush.JoinAsync(place with { Timeout = TimeSpan.FromSeconds(1 + (9 * place.Rank)) });
            using nn.Module<Tensor, Tensor> model = nn.Linear(3, 4);
            SkeinException error = Assert.ThrowsAny<SkeinException>(() => strategy.Attach(model));
            if (place.Rank == 0) Assert.Equal("rank 0 waited 1 s for rank 2 in comparing the models", error.Message);
            else Assert.StartsWith("rank 0 was lost (its connection ended) while rank 1 needed it in comparing the models", error.Message, StringComparison.Ordinal);
            return 0;
        });
    }

    [Fact]
    public async Task One_that_stops_ends_all()
    {
        long[] last = await Peers.Run(3, async place =>
        {
            using var cancellation = new CancellationTokenSource();
            using GossipPush strategy = await GossipPush.JoinAsync(place);
            using nn.Module<Tensor, Tensor> model = Models.Mlp();
            using InMemoryDataset data = Models.Data();
            using var optimizer = optim.SGD(model.parameters(), 0.1);
            long steps = 0;
            var trainer = new Trainer(model, optimizer, Models.CrossEntropy)
            {
                Strategy = strategy,
                BatchSize = Batch,
                StepCompleted = step =>
                {
                    steps = step.Step;
                    if (place.Rank == 1 && steps == 7) cancellation.Cancel();
                },
            };
            await Assert.ThrowsAnyAsync<OperationCanceledException>(() => trainer.FitAsync(data, 1_000_000, cancellation.Token));
            return steps;
        });
        Assert.Equal(8, last[1]);
    }

    [Fact]
    public async Task A_fit_after_a_cancelled_one_runs_to_its_end() => await Peers.Run(3, async place =>
    {
        using GossipPush strategy = await GossipPush.JoinAsync(place);
        await FitsAfterCancellation.Check(strategy, place.Rank);
        return true;
    });

    private sealed record Run(float[] Parameters, double Weight, double Distance, int Finished, int Rows, double Loss);

    private static async Task<Run> Train(ProcessGroupOptions place, double rate, int steps, int seed = 1, int? vanishAfter = null, double slowdown = 1)
    {
        using GossipPush strategy = await GossipPush.JoinAsync(place);
        (float[] parameters, double loss) = await Fit(strategy, rate, steps, seed, vanishAfter, slowdown);
        double[][] rows = strategy.Gather([place.Rank]);
        return new Run(parameters, strategy.Weight, strategy.ConsensusDistance, strategy.WorldSize, rows.Length, loss);
    }

    private static async Task<(float[] Parameters, double Loss)> Fit(Strategy strategy, double rate, int steps, int seed = 1, int? vanishAfter = null, double slowdown = 1)
    {
        using InMemoryDataset data = Models.Data();
        using nn.Module<Tensor, Tensor> model = Models.Mlp(seed);
        using var optimizer = optim.SGD(model.parameters(), rate, momentum: 0.9);
        var trainer = new Trainer(model, optimizer, Models.CrossEntropy)
        {
            Strategy = strategy,
            BatchSize = Batch,
            MaxSteps = steps,
            Seed = Seed,
            Slowdown = slowdown,
            StepCompleted = step =>
            {
                if (step.Step == vanishAfter) throw new EndOfStreamException("vanished");
            },
        };
        await trainer.FitAsync(data, epochs: 1_000_000);
        return (Models.Parameters(model), (await trainer.EvaluateAsync(data)).Loss);
    }
}

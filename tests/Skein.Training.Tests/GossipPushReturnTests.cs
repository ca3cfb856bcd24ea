using Microsoft.Extensions.Logging;
using Skein.Collectives;
using Skein.Training.Data;
using static TorchSharp.torch;

namespace Skein.Training.Tests;

/// <summary>Ranks that push, are lost, and come back, over real sockets.</summary>
public class GossipPushReturnTests
{
    private const int Batch = 24;
    private const int Back = 2;

    // More steps than any of these tests take: they end when somebody asks for it, or when it fails.
    private const int Long = 100_000;
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(60);

    [Fact]
    public async Task A_return_leaves_the_weight_of_the_living_as_it_was()
    {
        // Not enough steps for anyone to take a low weight for lost.
        const int Steps = 16;
        var trains = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        var left = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        var asks = new Signal("rank 2 has come back and asks rank 0 to be let in");
        float[] initial = Models.Parameters(Models.Mlp(1));
        Run[] runs = await Peers.Run(4, async place =>
        {
            if (place.Rank == Back)
            {
                // Lost with a weight of 1, before anybody pushed anything.
                using (GossipPush lost = await GossipPush.JoinAsync(place)) lost.Attach(Models.Mlp());
                left.SetResult();
                await trains.Task.WaitAsync(Patience);
            }

            using GossipPush strategy = await GossipPush.JoinAsync(place.Rank == 0 ? place with { Logger = asks } : place);
            using nn.Module<Tensor, Tensor> model = Models.Mlp(1 + place.Rank);
            if (place.Rank != Back) strategy.Attach(model);
            await left.Task.WaitAsync(Patience);
            return await Fit(strategy, model, 0, Steps, step =>
            {
                if (place.Rank != 0 || step.Step != 3) return;
                trains.SetResult();
                asks.Wait();
            });
        });
        Assert.All(runs, run => Assert.Equal(3, run.Weight, 1e-9));
        Assert.All(runs, run => Models.AssertClose(initial, run.Parameters, 1e-5, 1e-6));
        Assert.All(runs, run => Assert.Equal(runs[0].Parameters, run.Parameters));
        Assert.All(runs, run => Assert.Equal((4, 4), (run.Finished, run.Rows)));
        Assert.Equal([1, 0, 0, 0], runs.Select(static run => run.Restarts));

        // Let in after rank 0's fourth step, so that it begins with the fifth, which is the second epoch's first.
        StepInfo first = runs[Back].FirstStep!.Value;
        Assert.Equal((5, 1), (first.Step, first.Epoch));
        Assert.Equal(Steps, runs[Back].Steps);
    }

    [Fact]
    public async Task A_peer_may_be_lost_and_come_back_again_and_again()
    {
        Run[] runs = await Peers.Run(4, async place =>
        {
            if (place.Rank != Back) return await Join(place, Long);
            for (int life = 0; life < 3; life++) await Vanish(place, 10);
            using var cancellation = new CancellationTokenSource();
            return await Join(place, Long, StopAfter(30, cancellation), cancellation.Token);
        });
        Assert.Equal(3, runs[0].Restarts);
        Assert.All(runs, run => Assert.Equal((4, 4), (run.Finished, run.Rows)));
        Assert.All(runs, run => Assert.Equal(runs[0].Parameters, run.Parameters));
    }

    [Theory]
    [InlineData(0)]
    [InlineData(2)]
    public async Task On_data_without_noise_the_peers_find_the_exact_solution_however_often_one_is_lost(int losses)
    {
        using Tensor exact = Models.Seeded(5, static () => randn(4, 8));
        int[] taken = new int[4];
        float[][] solutions = await Peers.Run(4, async place =>
        {
            if (place.Rank == Back)
            {
                for (int life = 0; life < losses; life++)
                {
                    int lived = 0;
                    await Assert.ThrowsAsync<EndOfStreamException>(() => Solve(place, exact, _ =>
                    {
                        if (++lived == 25) throw new EndOfStreamException("vanished");
                    }));
                }
            }

            using var cancellation = new CancellationTokenSource();
            return await Solve(place, exact, _ =>
            {
                Interlocked.Increment(ref taken[place.Rank]);
                // Who takes few steps has much of the mass for long. One rank needs some 200 alone.
                if (place.Rank == Back && taken.All(static steps => steps >= 1000)) cancellation.Cancel();
            }, cancellation.Token);
        });
        float[] expected = exact.data<float>().ToArray();
        // Every gradient is 0 at the solution, so that neither delays nor lost mass keep the peers away from it. They begin some
        // 2 away; what was under way until the end is as far as it was when it was sent.
        Assert.All(solutions, solution => Models.AssertClose(expected, solution, 0, 1e-2));
    }

    [Fact]
    public async Task Two_that_come_back_push_to_each_other()
    {
        Run[] runs = await Peers.Run(5, async place =>
        {
            if (place.Rank is not (2 or 3)) return await Join(place, Long);
            await Vanish(place, 10 * place.Rank);
            using var cancellation = new CancellationTokenSource();
            return await Join(place, Long, StopAfter(100, cancellation), cancellation.Token);
        });
        Assert.All(runs, run => Assert.Equal((5, 5), (run.Finished, run.Rows)));
        Assert.All(runs, run => Assert.Equal(runs[0].Parameters, run.Parameters));
        Assert.InRange(runs[0].Weight, 0.1, 10);
    }

    [Fact]
    public async Task A_process_that_is_back_takes_the_place_of_one_that_hangs()
    {
        Run[] runs = await Peers.Run(4, async place =>
        {
            if (place.Rank != Back) return await Join(place, Long);
            var hangs = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
            var goesOn = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
            Task<Run> former = Task.Run(() => Join(place, Long, step =>
            {
                if (step.Step != 10) return;
                hangs.SetResult();
                goesOn.Task.WaitAsync(Patience).GetAwaiter().GetResult();
            }));
            await hangs.Task.WaitAsync(Patience);
            using var cancellation = new CancellationTokenSource();
            Run run = await Join(place, Long, _ =>
            {
                goesOn.TrySetResult();
                if (former.IsCompleted) cancellation.Cancel();
            }, cancellation.Token);
            PeerLostException error = await Assert.ThrowsAsync<PeerLostException>(() => former);
            Assert.StartsWith("rank 0 was lost (its connection ended)", error.Message, StringComparison.Ordinal);
            return run;
        });
        Assert.Equal(1, runs[0].Restarts);
        Assert.All(runs, run => Assert.Equal((4, 4), (run.Finished, run.Rows)));
        Assert.All(runs, run => Assert.Equal(runs[0].Parameters, run.Parameters));
    }

    [Fact]
    public async Task One_that_is_lost_while_it_comes_back_holds_up_nobody()
    {
        var asks = new Signal("rank 2 has come back and asks rank 0 to be let in");
        var waits = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        var gone = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        Run?[] runs = await Peers.Run(3, async place =>
        {
            if (place.Rank != Back)
            {
                return (Run?)await Join(place.Rank == 0 ? place with { Logger = asks } : place, 60, step =>
                {
                    if (place.Rank != 0 || step.Step != 30) return;
                    waits.SetResult();
                    gone.Task.WaitAsync(Patience).GetAwaiter().GetResult();
                });
            }

            await Vanish(place, 10);
            await waits.Task.WaitAsync(Patience);
            GossipPush strategy = await GossipPush.JoinAsync(place);
            Task<PeerLostException> attaching = Assert.ThrowsAsync<PeerLostException>(() => Task.Run(() => strategy.Attach(Models.Mlp())));
            asks.Wait();
            strategy.Dispose();
            await attaching;
            gone.SetResult();
            return null;
        });
        Assert.Equal(0, runs[0]!.Restarts);
        Assert.All(runs.OfType<Run>(), run => Assert.Equal((2, 2), (run.Finished, run.Rows)));
        Assert.Equal(runs[0]!.Parameters, runs[1]!.Parameters);
    }

    [Fact]
    public async Task Who_comes_back_when_training_has_ended_is_told_so()
    {
        var trained = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        var refused = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        var ended = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        int[] finished = await Peers.Run(3, async place =>
        {
            if (place.Rank != Back)
            {
                GossipPush strategy = await GossipPush.JoinAsync(place);
                using nn.Module<Tensor, Tensor> model = Models.Mlp();
                Run run = await Fit(strategy, model, 0.1, 40);
                if (place.Rank == 0) trained.SetResult();
                await refused.Task.WaitAsync(Patience);
                // The others still meet.
                Assert.Equal(2, strategy.Gather([1]).Length);
                strategy.Dispose();
                if (place.Rank == 0) ended.SetResult();
                return run.Finished;
            }

            await Vanish(place, 10);
            await trained.Task.WaitAsync(Patience);
            Assert.Equal(
                "rank 0 had ended its first fit when this rank came back, which is too late to take part; the others go on without it",
                (await Assert.ThrowsAsync<RendezvousException>(() => Join(place, 40))).Message);
            refused.SetResult();
            await ended.Task.WaitAsync(Patience);
            Assert.Equal(
                "rank 2 came when rank 0 had ended, and training with it",
                (await Assert.ThrowsAsync<RendezvousException>(() => Join(place, 40))).Message);
            return 0;
        });
        Assert.Equal([2, 2, 0], finished);
    }

    [Fact]
    public async Task One_that_comes_back_with_another_model_or_purpose_is_turned_away()
    {
        Run?[] runs = await Peers.Run<Run?>(3, async place =>
        {
            if (place.Rank != Back) return await Join(place, Long);
            await Vanish(place, 10);
            using (GossipPush strategy = await GossipPush.JoinAsync(place))
            {
                InvalidOperationException error = Assert.Throws<InvalidOperationException>(() => strategy.Attach(nn.Linear(3, 4)));
                Assert.Equal("the ranks hold different models: that of rank 0 is not that of rank 2; build the same model on every rank", error.Message);
            }

            using (GossipPush strategy = await GossipPush.JoinAsync(place))
            {
                strategy.Attach(Models.Mlp());
                InvalidOperationException error = Assert.Throws<InvalidOperationException>(() => strategy.Gather([1]));
                Assert.Equal("rank 2 came back into a fit that is under way, so that the fit has to be what its program does first with the strategy", error.Message);
            }

            using var cancellation = new CancellationTokenSource();
            return await Join(place, Long, StopAfter(10, cancellation), cancellation.Token);
        });
        Assert.All(runs, run => Assert.Equal((3, 3), (run!.Finished, run.Rows)));
        Assert.All(runs, run => Assert.Equal(runs[0]!.Parameters, run!.Parameters));
    }

    private sealed record Run(float[] Parameters, double Weight, int Finished, int Rows, int Restarts, StepInfo? FirstStep, long Steps);

    /// <summary>Takes some steps, and is gone.</summary>
    private static async Task Vanish(ProcessGroupOptions place, int steps)
    {
        long taken = 0;
        await Assert.ThrowsAsync<EndOfStreamException>(() => Join(place, Long, _ =>
        {
            if (++taken == steps) throw new EndOfStreamException("vanished");
        }));
    }

    /// <summary>Ends training for all, when this rank has taken some steps.</summary>
    private static Action<StepInfo> StopAfter(int steps, CancellationTokenSource cancellation)
    {
        int taken = 0;
        return _ =>
        {
            if (++taken == steps) cancellation.Cancel();
        };
    }

    private static async Task<float[]> Solve(ProcessGroupOptions place, Tensor exact, Action<StepInfo> completed, CancellationToken cancellationToken = default)
    {
        using GossipPush strategy = await GossipPush.JoinAsync(place, cancellationToken: cancellationToken);
        using Tensor features = Models.Seeded(6, static () => randn(96, 8));
        using var data = new InMemoryDataset(features, features.matmul(exact.t()));
        using var model = nn.Linear(8, 4, hasBias: false);
        using var optimizer = optim.SGD(model.parameters(), 0.2);
        var trainer = new Trainer(model, optimizer, static (output, labels) => nn.functional.mse_loss(output, labels))
        {
            Strategy = strategy,
            BatchSize = Batch,
            MaxSteps = Long,
            StepCompleted = completed,
        };
        try
        {
            await trainer.FitAsync(data, 1_000_000, cancellationToken);
        }
        catch (OperationCanceledException)
        {
            // Asked for by one of the ranks; all have ended alike.
        }

        return Models.Parameters(model);
    }

    private static async Task<Run> Join(ProcessGroupOptions place, int steps, Action<StepInfo>? completed = null, CancellationToken cancellationToken = default)
    {
        using GossipPush strategy = await GossipPush.JoinAsync(place, cancellationToken: cancellationToken);
        using nn.Module<Tensor, Tensor> model = Models.Mlp();
        return await Fit(strategy, model, 0.05, steps, completed, cancellationToken);
    }

    private static async Task<Run> Fit(
        GossipPush strategy, nn.Module<Tensor, Tensor> model, double rate, int steps, Action<StepInfo>? completed = null, CancellationToken cancellationToken = default)
    {
        using InMemoryDataset data = Models.Data();
        using var optimizer = optim.SGD(model.parameters(), rate);
        StepInfo? first = null;
        long last = 0;
        var trainer = new Trainer(model, optimizer, Models.CrossEntropy)
        {
            Strategy = strategy,
            BatchSize = Batch,
            MaxSteps = steps,
            StepCompleted = step =>
            {
                first ??= step;
                last = step.Step;
                completed?.Invoke(step);
            },
        };
        try
        {
            await trainer.FitAsync(data, 1_000_000, cancellationToken);
        }
        catch (OperationCanceledException)
        {
            // Asked for by one of the ranks; all have ended alike.
        }

        int rows = strategy.Gather([1]).Length;
        return new Run(Models.Parameters(model), strategy.Weight, strategy.WorldSize, rows, strategy.Restarts, first, last);
    }

    /// <summary>Waits for something to be said in a log.</summary>
    private sealed class Signal(string message) : ILogger
    {
        private readonly TaskCompletionSource said = new(TaskCreationOptions.RunContinuationsAsynchronously);

        public void Wait() => said.Task.WaitAsync(Patience).GetAwaiter().GetResult();

        public IDisposable? BeginScope<TState>(TState state)
            where TState : notnull => null;

        public bool IsEnabled(LogLevel logLevel) => true;

        public void Log<TState>(LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter)
        {
            if (formatter(state, exception) == message) said.TrySetResult();
        }
    }
}

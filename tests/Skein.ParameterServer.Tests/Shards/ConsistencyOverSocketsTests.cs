using Skein.ParameterServer.Control;

namespace Skein.ParameterServer.Tests.Shards;

/// <summary>What a worker sees under each consistency model, against values computed by hand.</summary>
public sealed class ConsistencyOverSocketsTests
{
    private const int Length = 70_001; // long enough to be split over all servers
    private static readonly float[] Zeros = new float[Length];

    [Theory]
    [InlineData(1, 1)]
    [InlineData(2, 3)]
    [InlineData(3, 2)]
    public async Task Bulk_synchronous_applies_the_sum_of_all_workers_once(int servers, int workerCount)
    {
        await using ServerJob job = await ServerJob.StartAsync(new JobSettings { Servers = servers, Workers = workerCount });
        JobWorker[] workers = await StartWorkersAsync(job, workerCount);
        var expected = new double[Length];
        for (int step = 0; step < 4; step++)
        {
            float[][] gradients = [.. Enumerable.Range(0, workerCount).Select(rank => Numbers.Random((step * 10) + rank, Length))];
            for (int i = 0; i < Length; i++) expected[i] -= 0.5 * gradients.Sum(gradient => (double)gradient[i]);
            PullAnswer[] answers = await Task.WhenAll(workers.Select((worker, rank) => Task.Run(() => worker.PushPull(step, gradients[rank], 0.5, loss: rank + 1))));
            foreach (JobWorker worker in workers) Numbers.AssertClose(expected, worker.Values);
            Assert.All(answers, answer => Assert.Equal(workerCount * (workerCount + 1) / 2.0, answer.Loss));
        }

        Assert.All(workers, worker => Assert.Equal(workers[0].Values, worker.Values));
        foreach (ShardStatistics shard in await job.StatisticsAsync())
        {
            Assert.Equal(4, shard.Updates);
            Assert.Equal(4 * workerCount, shard.Pushes);
            Assert.Equal([4 * workerCount], shard.UpdateStaleness);
        }
    }

    [Fact]
    public async Task Bulk_synchronous_sums_do_not_depend_on_who_comes_first()
    {
        float[][] gradients = [[1e8f], [1], [-1e8f]];
        float[] seen = new float[2];
        for (int order = 0; order < 2; order++)
        {
            await using ServerJob job = await ServerJob.StartAsync(new JobSettings { Servers = 1, Workers = 3 });
            JobWorker[] workers = [.. await Task.WhenAll(Enumerable.Range(0, 3).Select(rank => job.WorkerAsync(rank, [0f])))];
            int[] ranks = order == 0 ? [0, 1, 2] : [2, 0, 1];
            foreach (int rank in ranks) workers[rank].Push(0, gradients[rank]);
            workers[0].Pull(1);
            seen[order] = workers[0].Values[0];
        }

        // (1e8 + 1) - 1e8 in float32, in the order of ranks; -1e8 + 1e8 + 1 would be 1.
        Assert.Equal([0f, 0f], seen);
    }

    [Fact]
    public async Task Bounded_staleness_holds_the_fast_worker_back_exactly_at_the_bound()
    {
        await using ServerJob job = await ServerJob.StartAsync(new JobSettings { Servers = 2, Workers = 2, Consistency = "ssp:2" });
        JobWorker[] workers = await StartWorkersAsync(job, 2);
        float[] ones = [.. Enumerable.Repeat(1f, Length)];
        for (int clock = 0; clock < 2; clock++) workers[0].PushPull(clock, ones);
        workers[0].Push(2, ones);
        Task<PullAnswer> ahead = Task.Run(() => workers[0].Pull(3));

        // The other worker is served meanwhile, so the shards have seen the pull that waits.
        workers[1].Pull(0);
        Assert.Equal(-3, workers[1].Values[0]);
        Assert.False(ahead.IsCompleted);
        workers[1].Push(0, ones);
        await ahead.WaitAsync(ServerJob.Limit);
        Assert.Equal(-4, workers[0].Values[0]);
        foreach (ShardStatistics shard in await job.StatisticsAsync()) Assert.Equal(2, shard.ClockStaleness.Count - 1);
    }

    [Fact]
    public async Task Bounded_staleness_is_never_exceeded_by_workers_of_uneven_speed()
    {
        const int steps = 40;
        await using ServerJob job = await ServerJob.StartAsync(new JobSettings { Servers = 2, Workers = 3, Consistency = "ssp:3" });
        JobWorker[] workers = await StartWorkersAsync(job, 3);
        await Task.WhenAll(workers.Select((worker, rank) => Task.Run(() =>
        {
            var random = new Random(rank);
            for (int clock = 0; clock < steps; clock++)
            {
                Thread.SpinWait(random.Next(rank == 0 ? 200_000 : 20_000));
                worker.PushPull(clock, Zeros);
            }

            worker.Client.Leave();
        })));
        foreach (ShardStatistics shard in await job.StatisticsAsync())
        {
            Assert.InRange(shard.ClockStaleness.Count - 1, 0, 3);
            Assert.Equal(3 * steps, shard.Updates);
        }
    }

    [Fact]
    public async Task Asynchronous_staleness_counts_the_updates_between_pull_and_push_and_scales_the_learning_rate()
    {
        await using ServerJob job = await ServerJob.StartAsync(new JobSettings { Servers = 1, Workers = 2, Consistency = "async", StalenessWeighting = "inverse" });
        JobWorker fast = await job.WorkerAsync(0, [0f]), slow = await job.WorkerAsync(1, [0f]);
        fast.Pull(0);
        slow.Pull(0);
        for (int clock = 0; clock < 4; clock++) fast.PushPull(clock, [1]);
        slow.PushPull(0, [1]);

        // Four fresh updates of 1, and one that is four updates old, at a quarter of the learning rate.
        Assert.Equal(-4.25f, slow.Values[0]);
        ShardStatistics shard = Assert.Single(await job.StatisticsAsync());
        Assert.Equal([4, 0, 0, 0, 1], shard.UpdateStaleness);
    }

    [Fact]
    public async Task Delay_compensation_uses_the_parameters_that_the_worker_had()
    {
        await using ServerJob job = await ServerJob.StartAsync(new JobSettings { Servers = 1, Workers = 2, Consistency = "async", DelayCompensation = 0.5f });
        JobWorker fast = await job.WorkerAsync(0, [0f]), slow = await job.WorkerAsync(1, [0f]);
        fast.Pull(0);
        slow.Pull(0);
        fast.PushPull(0, [3]);
        slow.PushPull(0, [2]);

        // g + λ g² (w - w_pulled) = 2 + 0.5 · 4 · (-3 - 0) = -4
        Assert.Equal(-3 + 4, slow.Values[0]);
    }

    [Fact]
    public async Task One_asynchronous_worker_is_a_single_process()
    {
        await using ServerJob job = await ServerJob.StartAsync(new JobSettings { Servers = 2, Workers = 1, Consistency = "async", Optimizer = ServerOptimizerOptions.Parse("momentum") });
        JobWorker worker = Assert.Single(await StartWorkersAsync(job, 1));
        var expected = new double[Length];
        var momentum = new double[Length];
        for (int step = 0; step < 6; step++)
        {
            float[] gradient = Numbers.Random(step, Length);
            worker.PushPull(step, gradient, 0.1);
            for (int i = 0; i < Length; i++)
            {
                momentum[i] = (0.9 * momentum[i]) + gradient[i];
                expected[i] -= 0.1 * momentum[i];
            }
        }

        Numbers.AssertClose(expected, worker.Values);
    }

    [Fact]
    public async Task A_version_that_the_worker_has_is_not_sent_again()
    {
        await using ServerJob job = await ServerJob.StartAsync(new JobSettings { Servers = 2, Workers = 1, Consistency = "async" });
        JobWorker worker = Assert.Single(await StartWorkersAsync(job, 1));
        Assert.Equal(Length * sizeof(float), worker.Pull(0).BytesReceived);
        Assert.Equal(0, worker.Pull(0).BytesReceived);
        Assert.Equal(Length * sizeof(float), worker.PushPull(0, Zeros).BytesReceived);
    }

    private static async Task<JobWorker[]> StartWorkersAsync(ServerJob job, int count) =>
        await Task.WhenAll(Enumerable.Range(0, count).Select(rank => job.WorkerAsync(rank, Zeros)));
}

using Skein.ParameterServer.Control;

namespace Skein.ParameterServer.Tests.Control;

public class CoordinatorTests
{
    [Fact]
    public async Task Members_get_their_places_and_the_job_ends_when_the_workers_have_left()
    {
        await using Members job = await Members.StartAsync(options => options with { Servers = 2, Workers = 2, Settings = "{\"a\":1}" });
        CoordinatorClient server0 = await job.ServerAsync(10);
        CoordinatorClient server1 = await job.ServerAsync(11);
        CoordinatorClient worker1 = await job.WorkerAsync(1);
        CoordinatorClient worker0 = await job.WorkerAsync(0);

        JobView view = await worker0.WaitForAsync(view => view.Ready && view.Workers.Count == 2, "all members", Members.Limit);
        Assert.Equal((0, 1, 0, 1), (server0.Id, server1.Id, worker0.Id, worker1.Id));
        Assert.Equal("{\"a\":1}", view.Settings);
        Assert.Equal([0, 1], view.Workers);
        Assert.Equal([new ServerView(0, "127.0.0.1", 10, 9, 1010), new ServerView(1, "127.0.0.1", 11, 9, 1011)], view.Shards.Select(shard => shard.Primary));

        await worker0.LeaveAsync();
        Assert.False(job.Coordinator.Finished.IsCompleted);
        await worker1.LeaveAsync();
        Assert.Null(await job.Coordinator.Finished.WaitAsync(Members.Limit));
        Assert.True((await server1.WaitForAsync(view => view.Finished, "the end", Members.Limit)).Finished);
        await server0.LeaveAsync();
    }

    [Fact]
    public async Task A_backup_takes_over_when_the_connection_of_its_primary_is_torn()
    {
        await using Members job = await Members.StartAsync(options => options with { Servers = 2, Replicas = 2 });
        CoordinatorClient[] servers =
            [await job.ServerAsync(10), await job.ServerAsync(11), await job.ServerAsync(12), await job.ServerAsync(13)];
        CoordinatorClient worker = await job.WorkerAsync(0);
        JobView before = await worker.WaitForAsync(view => view.Ready, "all members", Members.Limit);
        Assert.Equal([12, 13], before.Shards.Select(shard => shard.Backup!.DataPort));

        await servers[1].DisposeAsync();
        JobView after = await worker.WaitForAsync(view => view.Shards[1].Generation == 1, "the promotion", Members.Limit);

        Assert.Equal(13, after.Shards[1].Primary.DataPort);
        Assert.Null(after.Shards[1].Backup);
        Assert.True(after.Generation > before.Generation);
        Assert.Equal(before.Shards[0], after.Shards[0]);

        await servers[2].DisposeAsync();
        await worker.WaitForAsync(view => view.Shards[0].Backup is null, "the loss of the backup", Members.Limit);

        await servers[0].DisposeAsync();
        string? failure = await job.Coordinator.Finished.WaitAsync(Members.Limit);
        Assert.StartsWith("server shard 0 (process 1010 on here) was lost and it has no replica (any more)", failure);
        ParameterServerException seen = await Assert.ThrowsAsync<ParameterServerException>(
            () => worker.WaitForAsync(_ => false, "nothing", Members.Limit));
        Assert.Equal(failure, seen.Message);
    }

    [Fact]
    public async Task A_process_that_ended_before_it_joined_ends_the_wait_for_it_with_its_name()
    {
        await using Members job = await Members.StartAsync(options => options with { Servers = 2, Workers = 1 });
        await job.ServerAsync(10);
        CoordinatorClient worker = await job.WorkerAsync(0);
        await job.DepartAsync(new ServerDeparture("server-1", 1011, "exited with code 0"));
        string? failure = await job.Coordinator.Finished.WaitAsync(Members.Limit);
        Assert.Equal("server-1 (process 1011 on here) exited with code 0 before it had joined the job; its log says why", failure);
        ParameterServerException seen = await Assert.ThrowsAsync<ParameterServerException>(
            () => worker.WaitForAsync(static view => view.Ready, "all members", Members.Limit));
        Assert.Equal(failure, seen.Message);
    }

    [Fact]
    public async Task A_process_that_ended_after_all_had_joined_is_no_news()
    {
        await using Members job = await Members.StartAsync(options => options with { Servers = 1, Workers = 1 });
        await job.ServerAsync(10);
        CoordinatorClient worker = await job.WorkerAsync(0);
        await job.DepartAsync(new ServerDeparture("server-1", 1011, "exited with code 0"));
        await worker.LeaveAsync();
        Assert.Null(await job.Coordinator.Finished.WaitAsync(Members.Limit));
    }

    [Fact]
    public async Task In_an_elastic_job_the_chunk_of_a_lost_worker_is_handed_out_again()
    {
        await using Members job = await Members.StartAsync(options => options with { Workers = 2, Elastic = true });
        CoordinatorClient worker0 = await job.WorkerAsync(0);
        CoordinatorClient worker1 = await job.WorkerAsync(1);
        CoordinatorClient joined = await job.WorkerAsync(WorkerRegistration.Extra);
        Assert.Equal(2, joined.Id);

        Assert.Equal(0, await worker1.TakeWorkAsync(0, 2, null));
        Assert.Equal(1, await worker0.TakeWorkAsync(0, 2, null));
        Assert.Equal(
            "worker 2 divides epoch 0 into 3 chunks, but another worker into 2; start all workers with the same data",
            (await Assert.ThrowsAsync<ParameterServerException>(() => joined.TakeWorkAsync(0, 3, null))).Message);
        Task<int?> next = worker0.TakeWorkAsync(0, 2, 1);
        Task<SumResult> sum = joined.SumAsync("loss", new double[] { 1, 2 });

        await worker1.DisposeAsync();

        Assert.Equal(0, await next.WaitAsync(Members.Limit));
        Assert.Null(await worker0.TakeWorkAsync(0, 2, 0));
        Assert.Null(await joined.TakeWorkAsync(0, 2, null));
        Assert.Equal(0, await joined.TakeWorkAsync(1, 2, null));
        await joined.CompleteWorkAsync(1, 2, 0);
        Assert.Equal(1, await worker0.TakeWorkAsync(1, 2, null));
        Assert.Null(await worker0.TakeWorkAsync(1, 2, 1));

        await worker0.SumAsync("loss", new double[] { 10, 20 });
        SumResult result = await sum.WaitAsync(Members.Limit);
        Assert.Equal([11, 22], result.Sums);
        Assert.Equal([0, 2], result.Workers);
    }

    [Fact]
    public async Task Sums_are_added_in_the_order_of_ids_and_names_can_be_used_again()
    {
        await using Members job = await Members.StartAsync(options => options with { Workers = 3 });
        CoordinatorClient[] workers = [await job.WorkerAsync(0), await job.WorkerAsync(1), await job.WorkerAsync(2)];
        double[] values = [1e16, 1, -1e16];
        double expected = 1e16 + 1 - 1e16;
        for (int round = 0; round < 5; round++)
        {
            IEnumerable<int> order = Enumerable.Range(0, 3).Select(i => (i + round) % 3);
            Task<SumResult>[] sums = [.. order.Select(i => workers[i].SumAsync("loss", new[] { values[i] }))];
            foreach (SumResult sum in await Task.WhenAll(sums).WaitAsync(Members.Limit)) Assert.Equal([expected], sum.Sums);
        }

        Task<SumResult>[] mismatched = [.. workers.Select((worker, i) => worker.SumAsync("length", new double[i == 1 ? 2 : 1]))];
        foreach (Task<SumResult> sum in mismatched)
        {
            Assert.Contains(
                "values to the sum 'length'", (await Assert.ThrowsAsync<ParameterServerException>(() => sum.WaitAsync(Members.Limit))).Message);
        }
    }
}

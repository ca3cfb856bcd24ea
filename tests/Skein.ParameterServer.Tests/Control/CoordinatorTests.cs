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
}

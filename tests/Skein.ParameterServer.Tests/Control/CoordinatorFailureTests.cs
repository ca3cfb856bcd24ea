using Grpc.Net.Client;
using Skein.ParameterServer.Control;
using Protocol = Skein.ParameterServer.Control.Protocol;

namespace Skein.ParameterServer.Tests.Control;

public class CoordinatorFailureTests
{
    [Fact]
    public async Task A_lost_worker_ends_a_job_of_fixed_size_for_everybody()
    {
        await using Members job = await Members.StartAsync(options => options with { Workers = 2 });
        CoordinatorClient worker0 = await job.WorkerAsync(0);
        CoordinatorClient worker1 = await job.WorkerAsync(1);
        Task<SumResult> sum = worker0.SumAsync("loss", new double[] { 1 });

        await worker1.DisposeAsync();

        string? failure = await job.Coordinator.Finished.WaitAsync(Members.Limit);
        Assert.Equal("worker 1 (process 2001 on here) was lost: its connection closed (the process died or was killed); start the job again, with --balance if it is to go on without a worker", failure);
        Assert.Equal(failure, (await Assert.ThrowsAsync<ParameterServerException>(() => sum.WaitAsync(Members.Limit))).Message);
        Assert.Equal(failure, (await Assert.ThrowsAsync<ParameterServerException>(() => job.WorkerAsync(1))).Message);
    }

    [Fact]
    public async Task A_wait_that_runs_out_names_who_waited_for_whom()
    {
        await using Members job = await Members.StartAsync(
            options => options with { Workers = 2, Elastic = true, Timeout = TimeSpan.FromSeconds(3) });
        await job.ServerAsync(10);
        CoordinatorClient worker0 = await job.WorkerAsync(0);
        CoordinatorClient worker1 = await job.WorkerAsync(1);
        Assert.Equal(0, await worker1.TakeWorkAsync(0, 1, null));

        Assert.Equal(
            "worker 0 waited 3 s for worker(s) 1 to contribute to the sum 'loss'",
            await MessageOf(worker0.SumAsync("loss", new double[] { 1 })));
        Assert.Equal(
            "worker 0 waited 3 s for others to complete what they hold of epoch 0: chunk 0 (worker 1)",
            await MessageOf(worker0.TakeWorkAsync(0, 1, null)));
        Assert.StartsWith(
            "waited 0.2 s for a third worker;",
            await MessageOf(worker0.WaitForAsync(view => view.Workers.Count == 3, "a third worker", TimeSpan.FromSeconds(0.2))));
    }

    [Fact]
    public async Task Who_gives_up_ends_the_job_with_its_message()
    {
        await using Members job = await Members.StartAsync(options => options with { Workers = 2 });
        CoordinatorClient server = await job.ServerAsync(10);
        CoordinatorClient worker1 = await job.WorkerAsync(1);
        var told = new TaskCompletionSource();
        using CancellationTokenRegistration registration = server.JobEnded.Register(told.SetResult);

        await worker1.FailAsync("the loss is NaN");

        await told.Task.WaitAsync(Members.Limit);
        Assert.Equal("worker 1: the loss is NaN", server.View.Failure);
        Assert.Equal("worker 1: the loss is NaN", worker1.View.Failure);
        Assert.Equal("worker 1: the loss is NaN", await job.Coordinator.Finished);
    }

    [Fact]
    public async Task A_member_that_falls_silent_is_lost_though_its_connection_stands()
    {
        await using Members job = await Members.StartAsync(
            options => options with { WorkerHeartbeatTimeout = TimeSpan.FromSeconds(0.5) });
        using GrpcChannel channel = ControlChannel.Open("127.0.0.1", job.Coordinator.Endpoint.Port, job.Secret, Members.Limit);
        using var stream = new Protocol.Coordination.CoordinationClient(channel).Join();
        Registration registration = new WorkerRegistration(0) { ProcessId = 7, HostName = "there" };
        await stream.RequestStream.WriteAsync(new Protocol.MemberMessage { Register = Messages.ToMessage(registration) });

        Assert.Equal(
            "worker 0 (process 7 on there) was lost: it has not been heard of for 0.5 s; start the job again, with --balance if it is to go on without a worker",
            await job.Coordinator.Finished.WaitAsync(Members.Limit));
    }

    [Fact]
    public async Task Heartbeats_keep_a_member_that_has_nothing_to_say()
    {
        await using Members job = await Members.StartAsync(
            options => options with { Workers = 2, WorkerHeartbeatTimeout = TimeSpan.FromSeconds(3), Timeout = TimeSpan.FromSeconds(7) });
        await job.ServerAsync(10);
        await job.WorkerAsync(0);

        string? failure = await job.Coordinator.Finished.WaitAsync(Members.Limit);

        Assert.StartsWith("waited 7 s for worker 1 to register", failure);
    }

    [Fact]
    public async Task A_lost_coordinator_is_noticed_and_named()
    {
        await using Members job = await Members.StartAsync(options => options);
        using var relay = new Relay(job.Coordinator.Endpoint.Port);
        await using CoordinatorClient worker = await CoordinatorClient.JoinAsync(
            "127.0.0.1", relay.Port, job.Secret, new WorkerRegistration(0), Members.Limit);

        relay.Dispose();

        Assert.Equal($"the coordinator at 127.0.0.1:{relay.Port} was lost", await MessageOf(worker.WaitForAsync(_ => false, "", Members.Limit)));
        Assert.Equal($"the coordinator at 127.0.0.1:{relay.Port} was lost", await MessageOf(worker.SumAsync("loss", new double[] { 1 })));
    }

    [Fact]
    public async Task A_coordinator_that_stops_early_says_so()
    {
        Members job = await Members.StartAsync(options => options);
        CoordinatorClient worker = await job.WorkerAsync(0);
        await job.Coordinator.DisposeAsync();
        Assert.Equal(
            "the coordinator was stopped before the job had ended", await MessageOf(worker.WaitForAsync(_ => false, "", Members.Limit)));
        await job.DisposeAsync();
    }

    private static async Task<string> MessageOf(Task wait) =>
        (await Assert.ThrowsAsync<ParameterServerException>(() => wait.WaitAsync(Members.Limit))).Message;
}

using FsCheck;
using FsCheck.Fluent;
using Skein.ParameterServer.Control;

namespace Skein.ParameterServer.Tests.Control;

public class MembershipTests
{
    private static readonly CoordinatorOptions Options = new()
    {
        Timeout = TimeSpan.FromSeconds(300),
        Servers = 2,
        Workers = 2,
    };

    [Fact]
    public void The_first_servers_become_primaries_and_the_next_their_backups()
    {
        var job = new MembershipScript(Options with { Replicas = 2 });
        for (int server = 0; server < 4; server++)
        {
            Assert.False(job.View.Ready);
            Assert.Equal(server, job.Server().Id);
        }

        Assert.True(job.View.Ready);
        Assert.Equal([(0, 2), (1, 3)], job.View.Shards.Select(shard => (shard.Primary.Id, shard.Backup!.Id)));
        Assert.Equal(
            "process 104 on host cannot join as a server: all 4 servers of this job have registered",
            Assert.Throws<ParameterServerException>(() => job.Server()).Message);
    }

    [Fact]
    public void Who_is_gone_before_it_joined_ends_the_job_or_is_not_waited_for()
    {
        var job = new MembershipScript(Options);
        job.Depart(new WorkerDeparture(1, 201, "exited with code 0"));
        Assert.Equal(
            "worker 1 (process 201 on host) exited with code 0 before it had joined the job: does its program join, as ParameterServerStrategy.JoinAsync does?",
            job.View.Failure);

        job = new MembershipScript(Options);
        job.Depart(new ServerDeparture("server-1", 101, "exited with code 1"));
        Assert.Equal("server-1 (process 101 on host) exited with code 1 before it had joined the job; its log says why", job.View.Failure);

        job = new MembershipScript(Options with { Elastic = true });
        job.Worker(0);
        Assert.Equal([0, 1], job.Awaited);
        job.Depart(new WorkerDeparture(1, 201, "exited with code 7"));
        Assert.Null(job.View.Failure);
        Assert.Equal([0], job.Awaited);
        Assert.Equal(
            "process 201 on host cannot join as worker 1, which its launcher has taken for gone; join as an extra worker instead",
            Assert.Throws<ParameterServerException>(() => job.Worker(1)).Message);
    }

    [Fact]
    public void Who_has_joined_ends_in_its_own_way()
    {
        var job = new MembershipScript(Options);
        job.Server();
        job.Worker(1);
        job.Depart(new WorkerDeparture(1, 201, "exited with code 0"));
        job.Depart(new ServerDeparture("server-0", 100, "exited with code 0"));
        Assert.Null(job.View.Failure);
    }

    [Fact]
    public void Ranks_are_taken_once_and_in_range()
    {
        var job = new MembershipScript(Options);
        job.Worker(1);
        Assert.Equal(
            "process 201 on host cannot join as worker 1: worker 1 (process 201 on host) has joined; two processes were started with this rank",
            Assert.Throws<ParameterServerException>(() => job.Worker(1)).Message);
        Assert.Equal(
            "process 202 on host cannot join as worker 2: the workers of this job are 0 to 1",
            Assert.Throws<ParameterServerException>(() => job.Worker(2)).Message);
        Assert.Equal(
            "process 199 on host cannot join: this job divides its data among 2 workers beforehand; start it with --balance so that workers can join",
            Assert.Throws<ParameterServerException>(() => job.Worker(WorkerRegistration.Extra)).Message);
        Assert.Equal([1], job.View.Workers);
    }

    [Fact]
    public void An_elastic_job_takes_more_workers_and_goes_on_without_a_lost_one()
    {
        var job = new MembershipScript(Options with { Elastic = true });
        Member first = job.Worker(0);
        Assert.Equal(2, job.Worker(WorkerRegistration.Extra).Id);
        Member lost = job.Worker(1);
        Assert.Equal(3, job.Worker(WorkerRegistration.Extra).Id);
        Assert.Equal([0, 1, 2, 3], job.Membership.AwaitedWorkers);

        job.Membership.Lose(lost, "gone");
        Assert.Equal([0, 2, 3], job.View.Workers);
        Assert.Null(job.View.Failure);
        Assert.Equal(
            "process 201 on host cannot join as worker 1: worker 1 (process 201 on host) has joined and is gone; join as an extra worker instead",
            Assert.Throws<ParameterServerException>(() => job.Worker(1)).Message);

        job.Membership.Lose(first, "gone");
        Assert.Equal("worker 0 (process 200 on host) was lost: gone; worker 0 leads and cannot be replaced: start the job again", job.View.Failure);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Workers_that_are_expected_are_awaited_before_they_register(bool elastic)
    {
        var job = new MembershipScript(Options with { Elastic = elastic });
        job.Worker(0);
        Assert.Equal([0, 1], job.Membership.AwaitedWorkers);
    }

    [Fact]
    public void Nobody_joins_in_addition_once_the_training_is_over()
    {
        var job = new MembershipScript(Options with { Elastic = true });
        job.Worker(0);
        job.Membership.Close();
        Assert.Equal(
            "process 199 on host cannot join: the workers of this job have finished their training",
            Assert.Throws<ParameterServerException>(() => job.Worker(WorkerRegistration.Extra)).Message);
        Assert.Equal(1, job.Worker(1).Id);
    }

    [Fact]
    public void A_job_of_fixed_size_fails_with_any_worker_and_awaits_all_of_them()
    {
        var job = new MembershipScript(Options);
        Member worker = job.Worker(1);
        Assert.Equal([0, 1], job.Membership.AwaitedWorkers);
        job.Membership.Lose(worker, "gone");
        Assert.Equal("worker 1 (process 201 on host) was lost: gone; start the job again, with --balance if it is to go on without a worker", job.View.Failure);
        Assert.Equal(job.View.Failure, Assert.Throws<ParameterServerException>(() => job.Worker(0)).Message);
    }

    [Fact]
    public void A_server_without_replica_is_named_with_the_remedy()
    {
        var job = new MembershipScript(Options);
        job.Server();
        job.Membership.Lose(job.Server(), "gone");
        Assert.Equal(
            "server shard 1 (process 101 on host) was lost and it has no replica; start with --replicas 2, or restore its checkpoint (gone)",
            job.View.Failure);
    }

    [Fact]
    public void Who_gives_up_is_named()
    {
        var job = new MembershipScript(Options);
        job.Membership.Fail(job.Server(), "disk full");
        Assert.Equal("server shard 0: disk full", job.View.Failure);
        job.Membership.Fail("later");
        Assert.Equal("server shard 0: disk full", job.View.Failure);
    }

    [Fact]
    public void Missing_members_are_named_after_the_timeout()
    {
        var job = new MembershipScript(Options with { Workers = 4, ServerHeartbeatTimeout = TimeSpan.MaxValue, WorkerHeartbeatTimeout = TimeSpan.MaxValue });
        job.Server();
        job.Worker(0);
        job.Worker(2);
        job.Membership.Tick(TimeSpan.FromSeconds(300));
        Assert.Null(job.View.Failure);
        job.Membership.Tick(TimeSpan.FromSeconds(301));
        Assert.StartsWith("waited 300 s for server 2 of 2 and workers 1, 3 to register", job.View.Failure);
    }

    [Fact]
    public void Silence_is_a_loss_unless_the_coordinator_itself_was_held_up()
    {
        var job = new MembershipScript(Options with { Workers = 1, Servers = 1 });
        Member server = job.Server();
        Member worker = job.Worker(0);
        for (double now = 0.5; now < 4; now += 0.5) job.Membership.Tick(TimeSpan.FromSeconds(now));
        job.Membership.Tick(TimeSpan.FromSeconds(60));
        Assert.Null(job.View.Failure);

        worker.LastHeard = server.LastHeard = TimeSpan.FromSeconds(60);
        for (double now = 60.5; now <= 64.5; now += 0.5) job.Membership.Tick(TimeSpan.FromSeconds(now));
        Assert.Contains("server shard 0 (process 100 on host) was lost", job.View.Failure);
        Assert.Contains("it has not been heard of for 4 s", job.View.Failure);
        Assert.Equal(MemberState.Alive, worker.State);
    }

    [Fact]
    public void After_the_workers_have_left_a_lost_server_is_no_failure()
    {
        var job = new MembershipScript(Options with { Servers = 1 });
        Member server = job.Server();
        Member[] workers = [job.Worker(0), job.Worker(1)];
        foreach (Member worker in workers) job.Membership.Leave(worker);
        Assert.True(job.View.Finished);
        job.Membership.Lose(server, "gone");
        Assert.Null(job.View.Failure);
    }

    [Fact]
    public void A_job_keeps_its_promises_whatever_happens() => Prop.ForAll(
        (from servers in Gen.Choose(1, 3)
         from replicas in Gen.Choose(1, 2)
         from workers in Gen.Choose(1, 3)
         from elastic in Gen.Elements(true, false)
         from events in Gen.Choose(0, 999).ArrayOf(40)
         select (servers, replicas, workers, elastic, events)).ToArbitrary(),
        shape =>
        {
            var job = new MembershipScript(Options with
            {
                Servers = shape.servers,
                Replicas = shape.replicas,
                Workers = shape.workers,
                Elastic = shape.elastic,
            });
            foreach (int happens in shape.events)
            {
                JobView before = job.View;
                job.Play(happens % 8, happens / 8);
                if (before.HasEnded ? !ReferenceEquals(before, job.View) : !job.IsSound(before)) return false;
            }

            return true;
        }).Check(Config.QuickThrowOnFailure.WithMaxTest(500).WithReplay(20260101, 1));
}

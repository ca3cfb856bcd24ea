using System.Diagnostics;
using System.Net;
using Skein.Collectives.Rendezvous;

namespace Skein.Collectives.Tests.Rendezvous;

public sealed class LifelineTests : IAsyncLifetime
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);
    private readonly JobSecret secret = JobSecret.Generate();
    private readonly List<Lifeline> lifelines = [];
    private AuthenticatedListener listener = null!;

    public ValueTask InitializeAsync()
    {
        listener = AuthenticatedListener.Start(new IPEndPoint(IPAddress.Loopback, 0), secret);
        return ValueTask.CompletedTask;
    }

    public async ValueTask DisposeAsync()
    {
        foreach (Lifeline lifeline in lifelines) await lifeline.DisposeAsync();
        await listener.DisposeAsync();
    }

    [Fact]
    public async Task A_killed_process_is_lost_on_every_rank_within_a_second()
    {
        Lifeline[] ranks = await StartAsync(worldSize: 4, except: 2);
        using Process child = LifelineChild.Start(listener.Endpoint.Port, rank: 2, worldSize: 4, secret);
        Assert.Equal("connected", await child.StandardOutput.ReadLineAsync().WaitAsync(Patience));
        Assert.All(ranks, rank => Assert.Equal(PeerState.Alive, rank.StateOf(2)));

        long killed = Stopwatch.GetTimestamp();
        child.Kill();
        foreach (Lifeline rank in ranks)
        {
            await UntilAsync(rank, () => rank.Failure is not null);
            Assert.InRange(Stopwatch.GetElapsedTime(killed), TimeSpan.Zero, TimeSpan.FromSeconds(1));
            Assert.Equal(
                new JobFailure(FailureKind.PeerLost, 2, "rank 2 was lost: its connection closed (the process died or was killed)"), rank.Failure);
            Assert.Equal(PeerState.Lost, rank.StateOf(2));
            Assert.IsType<PeerLostException>(rank.Failure!.ToException());
        }
    }

    [Fact]
    public async Task When_rank_0_ends_the_others_lose_it()
    {
        Lifeline[] ranks = await StartAsync(3);
        await ranks[0].DisposeAsync();
        foreach (Lifeline rank in ranks[1..])
        {
            await UntilAsync(rank, () => rank.Failure is not null);
            Assert.Equal((FailureKind.PeerLost, 0), (rank.Failure!.Kind, rank.Failure.Rank));
            Assert.StartsWith("rank 0 was lost", rank.Failure.Message);
            Assert.Equal(PeerState.Lost, rank.StateOf(0));
        }
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    public async Task A_reported_failure_reaches_every_rank_and_the_first_one_stays(int reporter)
    {
        Lifeline[] ranks = await StartAsync(3);
        ranks[reporter].ReportFailure(FailureKind.Aborted, "loss is NaN");
        Assert.NotNull(ranks[reporter].Failure);
        foreach (Lifeline rank in ranks)
        {
            await UntilAsync(rank, () => rank.Failure is not null);
            rank.ReportFailure(FailureKind.Timeout, "a consequence");
            Assert.Equal(new JobFailure(FailureKind.Aborted, reporter, "loss is NaN"), rank.Failure);
            Assert.Equal($"rank {reporter} gave up: loss is NaN", Assert.IsType<JobAbortedException>(rank.Failure!.ToException()).Message);
        }
    }

    [Fact]
    public async Task A_failure_reported_just_before_the_end_of_its_rank_arrives()
    {
        Lifeline[] ranks = await StartAsync(3);
        ranks[1].ReportFailure(FailureKind.Mismatch, "the cause");
        await ranks[1].DisposeAsync();
        foreach (Lifeline rank in ranks)
        {
            await UntilAsync(rank, () => rank.Failure is not null);
            Assert.Equal(new JobFailure(FailureKind.Mismatch, 1, "the cause"), rank.Failure);
        }
    }

    [Fact]
    public async Task A_failure_before_a_rank_connects_reaches_it()
    {
        Lifeline[] ranks = await StartAsync(3, except: 2);
        ranks[0].ReportFailure(FailureKind.Aborted, "early");
        Lifeline late = await ConnectAsync(2, 3);
        await UntilAsync(late, () => late.Failure is not null);
        Assert.Equal("early", late.Failure!.Message);
    }

    [Fact]
    public async Task Different_calls_with_the_same_number_are_a_mismatch_that_names_both()
    {
        Lifeline[] ranks = await StartAsync(3);
        ranks[0].ReportWaiting(new WaitReport(0, 7, 12, new byte[] { 1 }, "AllReduce(Single, 100, Sum)"));
        ranks[1].ReportWaiting(new WaitReport(1, 7, 12, new byte[] { 2 }, "Broadcast(Single, 100, root 0)"));
        foreach (Lifeline rank in ranks)
        {
            await UntilAsync(rank, () => rank.Failure is not null);
            Assert.Equal(FailureKind.Mismatch, rank.Failure!.Kind);
            Assert.Contains("rank 0 called AllReduce(Single, 100, Sum)", rank.Failure.Message);
            Assert.Contains("rank 1 called Broadcast(Single, 100, root 0)", rank.Failure.Message);
            Assert.IsType<CollectiveMismatchException>(rank.Failure.ToException());
        }
    }

    [Fact]
    public async Task Equal_calls_and_calls_of_other_groups_or_numbers_are_no_mismatch()
    {
        Lifeline[] ranks = await StartAsync(3);
        byte[] signature = [1];
        ranks[0].ReportWaiting(new WaitReport(0, 1, 5, signature, "a"));
        ranks[1].ReportWaiting(new WaitReport(1, 1, 5, signature, "a"));
        ranks[1].ReportWaiting(new WaitReport(1, 2, 5, new byte[] { 2 }, "other group"));
        ranks[2].ReportWaiting(new WaitReport(2, 1, 6, new byte[] { 3 }, "other number"));
        await Task.WhenAll(ranks.Select(rank => rank.LeaveAsync(Patience)));
        Assert.All(ranks, rank => Assert.Null(rank.Failure));
        Assert.Equal(["a", "other group", "other number"], ranks[0].LastReports.Select(report => report.Last!.Value.Description));
        Assert.Empty(ranks[1].LastReports);
    }

    [Fact]
    public async Task Goodbye_is_no_failure_and_rank_0_waits_for_the_last()
    {
        Lifeline[] ranks = await StartAsync(3);
        Task first = ranks[0].LeaveAsync(Patience);
        await UntilAsync(ranks[1], () => ranks[1].StateOf(0) == PeerState.Left);
        await ranks[2].LeaveAsync(Patience);
        await ranks[2].DisposeAsync();
        await UntilAsync(ranks[1], () => ranks[1].StateOf(2) == PeerState.Left);
        Assert.False(first.IsCompleted);
        await ranks[1].LeaveAsync(Patience);
        await first;
        await ranks[0].DisposeAsync();
        await ranks[1].DisposeAsync();
        Assert.All(ranks, rank => Assert.Null(rank.Failure));
    }

    [Fact]
    public async Task Rank_0_does_not_wait_for_the_goodbye_of_the_lost()
    {
        Lifeline[] ranks = await StartAsync(3);
        Task first = ranks[0].LeaveAsync(Patience);
        await ranks[1].DisposeAsync();
        await ranks[2].LeaveAsync(Patience);
        await first;
        Assert.Equal(1, ranks[0].Failure!.Rank);
        Assert.Equal(PeerState.Left, ranks[0].StateOf(2));
    }

    [Fact]
    public async Task A_missing_goodbye_is_named_after_the_timeout()
    {
        Lifeline[] ranks = await StartAsync(3);
        await ranks[1].LeaveAsync(Patience);
        var error = await Assert.ThrowsAsync<CollectiveTimeoutException>(() => ranks[0].LeaveAsync(TimeSpan.FromMilliseconds(200)));
        Assert.Contains("0.2 s", error.Message);
        Assert.EndsWith("the goodbye of rank 2", error.Message);
    }

    [Fact]
    public async Task A_job_of_one_needs_nobody()
    {
        Lifeline[] ranks = await StartAsync(1);
        await ranks[0].LeaveAsync(Patience);
        Assert.Null(ranks[0].Failure);
    }

    [Theory]
    [InlineData(1, 3, "already connected")]
    [InlineData(0, 3, "cannot join")]
    [InlineData(3, 3, "cannot join")]
    [InlineData(-1, 3, "cannot join")]
    [InlineData(2, 4, "WORLD_SIZE=4")]
    public async Task A_rank_that_has_no_place_is_told_why(int rank, int worldSize, string reason)
    {
        await StartAsync(3, except: 2);
        var error = await Assert.ThrowsAsync<RendezvousException>(() => ConnectAsync(rank, worldSize));
        Assert.Contains($"rank {rank} ", error.Message);
        Assert.Contains(reason, error.Message);
        await ConnectAsync(2, 3);
    }

    [Fact]
    public async Task A_rank_may_connect_before_rank_0_hosts()
    {
        Task<Lifeline> early = ConnectAsync(1, 2);
        Lifeline host = Lifeline.Host(listener, 2);
        lifelines.Add(host);
        Lifeline rank = await early;
        await Task.WhenAll(host.LeaveAsync(Patience), rank.LeaveAsync(Patience));
        Assert.Null(rank.Failure);
    }

    [Fact]
    public async Task A_connection_dropped_after_its_handshake_is_made_again()
    {
        await using var hub = new LifelineHub(2, _ => { });
        using Impostor overloaded = Impostor.StartOverloaded(secret, dropped: 2, hub.ServeAsync);
        await using Lifeline rank = await Lifeline.ConnectAsync("127.0.0.1", overloaded.Port, 1, 2, secret, Patience);
        await rank.LeaveAsync(Patience);
        Assert.Null(rank.Failure);
    }

    [Fact]
    public async Task A_rank_that_is_never_admitted_says_what_it_waited_for()
    {
        using Impostor overloaded = Impostor.StartOverloaded(secret, dropped: int.MaxValue, (_, _) => Task.CompletedTask);
        var error = await Assert.ThrowsAsync<RendezvousException>(
            () => Lifeline.ConnectAsync("127.0.0.1", overloaded.Port, 1, 2, secret, TimeSpan.FromSeconds(1)));
        Assert.StartsWith(
            $"rank 1 waited for rank 0 to admit it to the job: could not reach 127.0.0.1:{overloaded.Port} within 1 s", error.Message);
        Assert.Contains("closed the connection after the handshake", error.Message);
    }

    [Fact]
    public async Task A_rank_that_talks_nonsense_is_lost()
    {
        Lifeline[] ranks = await StartAsync(2, except: 1);
        using var socket = await AuthenticatedConnection.ConnectAsync(
            "127.0.0.1", listener.Endpoint.Port, secret, ConnectionPurpose.Lifeline, LifelineHub.Hello(1, 2), Patience);
        await socket.SendAsync(new byte[] { 0xFF, 0xFF, 0xFF, 0x7F });
        await UntilAsync(ranks[0], () => ranks[0].Failure is not null);
        Assert.Contains("rank 1 was lost: it sent a malformed message", ranks[0].Failure!.Message);
    }

    private async Task<Lifeline[]> StartAsync(int worldSize, int except = -1)
    {
        lifelines.Add(Lifeline.Host(listener, worldSize));
        for (int rank = 1; rank < worldSize; rank++)
        {
            if (rank != except) await ConnectAsync(rank, worldSize);
        }

        return [.. lifelines];
    }

    private async Task<Lifeline> ConnectAsync(int rank, int worldSize)
    {
        Lifeline lifeline = await Lifeline.ConnectAsync("127.0.0.1", listener.Endpoint.Port, rank, worldSize, secret, Patience);
        lifelines.Add(lifeline);
        return lifeline;
    }

    private static async Task UntilAsync(Lifeline lifeline, Func<bool> condition)
    {
        var met = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        void Check()
        {
            if (condition()) met.TrySetResult();
        }

        lifeline.Changed += Check;
        Check();
        await met.Task.WaitAsync(Patience);
        lifeline.Changed -= Check;
    }
}

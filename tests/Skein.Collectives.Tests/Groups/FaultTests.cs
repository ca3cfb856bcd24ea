using Skein.TestKit;

namespace Skein.Collectives.Tests.Groups;

/// <summary>Real processes that die, stop, leave, throw or call something else: an error on every rank, never a hang.</summary>
public sealed class FaultTests
{
    private static readonly TimeSpan StartLimit = TimeSpan.FromSeconds(60);
    private static readonly TimeSpan LongTimeout = TimeSpan.FromSeconds(120);

    /// <summary>Far below the job's timeout, far above what noticing takes.</summary>
    private static readonly TimeSpan SoonLimit = TimeSpan.FromSeconds(15);

    [Theory]
    [InlineData(TransportKind.SharedMemory, 2)]
    [InlineData(TransportKind.SharedMemory, 4)]
    [InlineData(TransportKind.Tcp, 2)]
    [InlineData(TransportKind.Tcp, 4)]
    public async Task A_rank_killed_in_an_all_reduce_ends_the_others_with_its_name(TransportKind transport, int worldSize)
    {
        int victim = worldSize - 1;
        string[] before = SharedMemoryFiles();
        await using RankProcesses ranks = RankProcesses.Start(worldSize, transport, LongTimeout, "all-reduce-forever", "3000000");
        ranks.WaitForAll("running", StartLimit);
        ranks.Signal(victim, 9);
        RankOutcome[] outcomes = await ranks.WaitForExitAsync(SoonLimit);
        Assert.Equal(128 + 9, outcomes[victim].ExitCode);
        foreach (RankOutcome outcome in outcomes[..victim])
        {
            Assert.Equal(1, outcome.ExitCode);
            Assert.Contains("PeerLostException", outcome.Output, StringComparison.Ordinal);
            Assert.Contains($"rank {victim} was lost", outcome.Output, StringComparison.Ordinal);
        }

        Assert.Empty(SharedMemoryFiles().Except(before));
    }

    [Fact]
    public async Task The_death_of_rank_0_ends_the_others_too()
    {
        await using RankProcesses ranks = RankProcesses.Start(3, TransportKind.SharedMemory, LongTimeout, "all-reduce-forever", "100000");
        ranks.WaitForAll("running", StartLimit);
        ranks.Signal(0, 9);
        RankOutcome[] outcomes = await ranks.WaitForExitAsync(SoonLimit);
        foreach (RankOutcome outcome in outcomes[1..])
        {
            Assert.Equal(1, outcome.ExitCode);
            Assert.Contains("PeerLostException", outcome.Output, StringComparison.Ordinal);
            Assert.Contains("rank 0", outcome.Output, StringComparison.Ordinal);
        }
    }

    [Theory]
    [InlineData(TransportKind.SharedMemory, "all-reduce", "broadcast", "AllReduce", "Broadcast")]
    [InlineData(TransportKind.Tcp, "all-reduce", "broadcast", "AllReduce", "Broadcast")]
    [InlineData(TransportKind.SharedMemory, "all-reduce", "barrier", "AllReduce", "Barrier")]
    [InlineData(TransportKind.Tcp, "barrier", "all-reduce", "AllReduce", "Barrier")]
    [InlineData(TransportKind.SharedMemory, "all-reduce", "all-reduce-longer", "1,000", "1,001")]
    [InlineData(TransportKind.Tcp, "all-reduce", "all-reduce-longer", "1,000", "1,001")]
    [InlineData(TransportKind.SharedMemory, "all-reduce", "all-reduce-max", "sum", "max")]
    [InlineData(TransportKind.Tcp, "all-reduce", "all-reduce-max", "sum", "max")]
    [InlineData(TransportKind.SharedMemory, "all-reduce", "all-reduce-double", "float32", "float64")]
    [InlineData(TransportKind.Tcp, "all-reduce", "all-reduce-double", "float32", "float64")]
    [InlineData(TransportKind.SharedMemory, "broadcast", "broadcast-from-1", "root 0", "root 1")]
    [InlineData(TransportKind.Tcp, "broadcast", "broadcast-from-1", "Broadcast #", "root ")]
    public async Task Different_calls_are_named_on_every_rank(
        TransportKind transport, string call, string otherCall, string named, string alsoNamed)
    {
        await using RankProcesses ranks = RankProcesses.Start(3, transport, LongTimeout, "call", call, otherCall);
        RankOutcome[] outcomes = await ranks.WaitForExitAsync(StartLimit);
        foreach (RankOutcome outcome in outcomes)
        {
            Assert.Equal(1, outcome.ExitCode);
            Assert.Contains("CollectiveMismatchException", outcome.Output, StringComparison.Ordinal);
            Assert.Contains(named, outcome.Output, StringComparison.Ordinal);
            Assert.Contains(alsoNamed, outcome.Output, StringComparison.Ordinal);
            Assert.Contains("rank 1", outcome.Output, StringComparison.Ordinal);
        }
    }

    [Theory]
    [InlineData(TransportKind.SharedMemory, "throw")]
    [InlineData(TransportKind.Tcp, "throw")]
    [InlineData(TransportKind.SharedMemory, "leave")]
    [InlineData(TransportKind.Tcp, "leave")]
    public async Task A_rank_that_throws_or_leaves_ends_the_others(TransportKind transport, string action)
    {
        await using RankProcesses ranks = RankProcesses.Start(3, transport, LongTimeout, "call", "all-reduce", action);
        RankOutcome[] outcomes = await ranks.WaitForExitAsync(StartLimit);
        foreach (int rank in new[] { 0, 2 })
        {
            Assert.Equal(1, outcomes[rank].ExitCode);
            Assert.Contains("PeerLostException", outcomes[rank].Output, StringComparison.Ordinal);
            Assert.Contains("rank 1 left", outcomes[rank].Output, StringComparison.Ordinal);
        }

        if (action == "throw") Assert.Contains("this rank's own trouble", outcomes[1].Output, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(TransportKind.SharedMemory)]
    [InlineData(TransportKind.Tcp)]
    public async Task A_timeout_names_who_waited_for_whom_in_what(TransportKind transport)
    {
        await using RankProcesses ranks = RankProcesses.Start(3, transport, TimeSpan.FromSeconds(8), "call", "all-reduce", "idle");
        RankOutcome[] outcomes = await ranks.WaitForExitAsync(StartLimit, except: 1);
        foreach (int rank in new[] { 0, 2 })
        {
            Assert.Equal(1, outcomes[rank].ExitCode);
            Assert.Contains("CollectiveTimeoutException", outcomes[rank].Output, StringComparison.Ordinal);
            Assert.Contains("waited 8 s for rank 1", outcomes[rank].Output, StringComparison.Ordinal);
            Assert.DoesNotContain("does not answer", outcomes[rank].Output, StringComparison.Ordinal);
            Assert.Contains("AllReduce #", outcomes[rank].Output, StringComparison.Ordinal);
        }
    }

    [Theory]
    [InlineData(TransportKind.SharedMemory)]
    [InlineData(TransportKind.Tcp)]
    public async Task A_stopped_rank_is_a_timeout(TransportKind transport)
    {
        await using RankProcesses ranks = RankProcesses.Start(3, transport, TimeSpan.FromSeconds(8), "all-reduce-forever", "1000000");
        ranks.WaitForAll("running", StartLimit);
        ranks.Signal(2, 19);
        RankOutcome[] outcomes = await ranks.WaitForExitAsync(StartLimit, except: 2);
        foreach (int rank in new[] { 0, 1 })
        {
            Assert.Equal(1, outcomes[rank].ExitCode);
            Assert.Contains("CollectiveTimeoutException", outcomes[rank].Output, StringComparison.Ordinal);
            Assert.Contains("rank 2 does not answer: it is frozen, or its host is lost", outcomes[rank].Output, StringComparison.Ordinal);
        }
    }

    [Theory]
    [InlineData(TransportKind.SharedMemory)]
    [InlineData(TransportKind.Tcp)]
    public async Task A_message_that_never_comes_is_a_timeout(TransportKind transport)
    {
        await using RankProcesses ranks = RankProcesses.Start(2, transport, TimeSpan.FromSeconds(8), "receive");
        RankOutcome[] outcomes = await ranks.WaitForExitAsync(StartLimit, except: 1);
        Assert.Equal(1, outcomes[0].ExitCode);
        Assert.Contains("CollectiveTimeoutException", outcomes[0].Output, StringComparison.Ordinal);
        Assert.Contains("rank 1", outcomes[0].Output, StringComparison.Ordinal);
    }

    private static string[] SharedMemoryFiles() => Directory.Exists("/dev/shm") ? Directory.GetFiles("/dev/shm", "skein*") : [];
}

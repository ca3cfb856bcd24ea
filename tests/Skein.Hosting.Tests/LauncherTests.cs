namespace Skein.Hosting.Tests;

public sealed class LauncherTests : IDisposable
{
    private readonly string directory = Directory.CreateTempSubdirectory("skein-launcher-").FullName;

    public void Dispose() => Directory.Delete(directory, recursive: true);

    [Fact]
    public async Task Each_ranks_output_is_in_its_log()
    {
        var outcome = await Launcher.RunAsync(Job(3, "echo out $RANK; echo err $RANK >&2; echo $SKEIN_RUN_DIR"));
        Assert.Equal((0, null, null), (outcome.ExitCode, outcome.FailedRank, outcome.Failure));
        for (var rank = 0; rank < 3; rank++)
        {
            var lines = File.ReadAllLines(Path.Combine(directory, $"rank-{rank}.log"));
            Assert.Equal(new[] { $"out {rank}", $"err {rank}", directory }.Order(), lines.Order());
            Assert.Equal(lines, outcome.LastLines[rank]);
        }
    }

    [Fact]
    public async Task Only_the_last_lines_are_remembered_and_all_are_logged()
    {
        var outcome = await Launcher.RunAsync(Job(1, "seq 1000; exit 9"));
        Assert.Equal((9, 0, "rank 0 exited with code 9"), (outcome.ExitCode, outcome.FailedRank, outcome.Failure));
        Assert.Equal(Enumerable.Range(981, 20).Select(i => $"{i}"), outcome.LastLines[0]);
        Assert.Equal(1000, File.ReadLines(Path.Combine(directory, "rank-0.log")).Count());
    }

    [Fact]
    public async Task The_failure_of_the_first_rank_to_fail_is_the_jobs()
    {
        // Rank 1 fails only once rank 0 is told to end.
        var outcome = await Launcher.RunAsync(Job(2, "[ $RANK = 0 ] && exit 3; trap 'exit 4' TERM; while :; do sleep 0.05; done"));
        Assert.Equal((3, 0), (outcome.ExitCode, outcome.FailedRank));
    }

    [Fact]
    public async Task Cancellation_interrupts()
    {
        using var cancellation = new CancellationTokenSource();
        var job = Launcher.RunAsync(Job(2, $"touch {directory}/ready-$RANK; sleep 600"), cancellation.Token);
        while (Directory.GetFiles(directory, "ready-*").Length < 2) await Task.Delay(10, TestContext.Current.CancellationToken);
        await cancellation.CancelAsync();
        Assert.Equal(130, (await job.WaitAsync(TimeSpan.FromSeconds(5), TestContext.Current.CancellationToken)).ExitCode);
    }

    [Fact]
    public async Task Workers_keep_freed_memory_unless_the_user_says_otherwise()
    {
        var options = Job(1, "echo $MALLOC_MMAP_MAX_ $THP_MEM_ALLOC_ENABLE") with
        {
            Environment = new Dictionary<string, string> { ["THP_MEM_ALLOC_ENABLE"] = "0" },
        };
        Assert.Equal(["0 0"], (await Launcher.RunAsync(options)).LastLines[0]);
    }

    [Fact]
    public async Task A_rank_that_may_be_lost_is_started_again_until_it_ends_well()
    {
        // Rank 1 fails twice; rank 0 stays until it has ended well.
        var (outcome, said) = await RunAndListen(5, $"""
            echo life $RANK
            [ $RANK = 0 ] && while [ ! -e {directory}/well ]; do sleep 0.02; done && exit
            echo >>{directory}/lives
            [ $(wc -l <{directory}/lives) = 3 ] && touch {directory}/well && exit
            exit 7
            """);
        Assert.Equal((0, null, null), (outcome.ExitCode, outcome.FailedRank, outcome.Failure));
        Assert.Equal(["rank 1 exited with code 7, and is started again (1 of 5)", "rank 1 exited with code 7, and is started again (2 of 5)"], said);
        Assert.Equal(["life 1", "life 1", "life 1"], File.ReadAllLines(Path.Combine(directory, "rank-1.log")));
        Assert.Equal(["life 1"], outcome.LastLines[1]);
        Assert.Equal(["life 0"], outcome.LastLines[0]);
    }

    [Fact]
    public async Task When_the_restarts_are_used_up_the_others_go_on()
    {
        var (outcome, said) = await RunAndListen(1, $"""
            [ $RANK = 0 ] && while [ $(cat {directory}/lives | wc -l) != 2 ]; do sleep 0.02; done && exit
            echo >>{directory}/lives
            exit 7
            """);
        Assert.Equal(0, outcome.ExitCode);
        Assert.Equal(["rank 1 exited with code 7, and is started again (1 of 1)", "rank 1 exited with code 7"], said);
    }

    [Fact]
    public async Task Restarts_leave_no_descriptors_behind()
    {
        // The first job opens what stays open anyway.
        await RunAndListen(1, "[ $RANK = 0 ] && exit; exit 7");
        var before = Directory.GetFileSystemEntries("/proc/self/fd").Length;
        var lives = Path.Combine(directory, "lives");
        var (outcome, said) = await RunAndListen(60, $"""
            [ $RANK = 0 ] && while [ ! -e {directory}/well ]; do sleep 0.02; done && exit
            echo >>{lives}
            [ $(wc -l <{lives}) = 61 ] && touch {directory}/well && exit
            exit 7
            """);
        Assert.Equal((0, 60), (outcome.ExitCode, said.Count));
        // Two for each restart, once; other tests beside this one open a few.
        Assert.InRange(Directory.GetFileSystemEntries("/proc/self/fd").Length - before, -1000, 60);
    }

    [Fact]
    public async Task Without_the_rank_that_the_job_needs_nobody_is_started_again()
    {
        var (outcome, said) = await RunAndListen(5, $"[ $RANK = 0 ] && echo $$ >{directory}/id && exit; while [ ! -s {directory}/id ] || [ -e /proc/$(cat {directory}/id) ]; do sleep 0.02; done; exit 7");
        Assert.Equal(0, outcome.ExitCode);
        Assert.Equal(["rank 1 exited with code 7"], said);
    }

    [Fact]
    public async Task The_rank_that_the_job_needs_ends_it()
    {
        var (outcome, said) = await RunAndListen(5, "[ $RANK = 0 ] && exit 3; sleep 600");
        Assert.Equal((3, 0), (outcome.ExitCode, outcome.FailedRank));
        Assert.Empty(said);
    }

    [Fact]
    public async Task Numbers_out_of_range_are_refused()
    {
        await Assert.ThrowsAsync<ArgumentOutOfRangeException>(() => Launcher.RunAsync(Job(0, "true")));
        await Assert.ThrowsAsync<ArgumentOutOfRangeException>(() => Launcher.RunAsync(Job(1, "true") with { Nodes = 2, NodeRank = 2 }));
        await Assert.ThrowsAsync<ArgumentOutOfRangeException>(() => Launcher.RunAsync(Job(1, "true") with { Restarts = -1 }));
        await Assert.ThrowsAsync<LaunchException>(() => Launcher.RunAsync(Job(1, "true") with { Nodes = 2 }));
    }

    [Theory]
    [InlineData(1, "exited with code 1")]
    [InlineData(127, "exited with code 127")]
    [InlineData(137, "was ended by signal 9 (SIGKILL)")]
    [InlineData(162, "was ended by signal 34")]
    [InlineData(255, "exited with code 255")]
    public void Exit_codes_in_words(int code, string words) => Assert.Equal(words, Signals.Describe(code));

    /// <summary>A job of two that can do without rank 1, and what was said of losses.</summary>
    private async Task<(LaunchOutcome Outcome, List<string> Said)> RunAndListen(int restarts, string script)
    {
        var said = new List<string>();
        var outcome = await Launcher.RunAsync(Job(2, script) with { SurvivesLossOf = static rank => rank == 1, Restarts = restarts, LossSurvived = said.Add });
        return (outcome, said);
    }

    private LaunchOptions Job(int processes, string script) => new()
    {
        Program = "sh",
        Arguments = ["-c", script],
        ProcessesPerNode = processes,
        RunDirectory = directory,
        Output = LaunchOutput.None,
    };
}

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
    public async Task Numbers_out_of_range_are_refused()
    {
        await Assert.ThrowsAsync<ArgumentOutOfRangeException>(() => Launcher.RunAsync(Job(0, "true")));
        await Assert.ThrowsAsync<ArgumentOutOfRangeException>(() => Launcher.RunAsync(Job(1, "true") with { Nodes = 2, NodeRank = 2 }));
        await Assert.ThrowsAsync<LaunchException>(() => Launcher.RunAsync(Job(1, "true") with { Nodes = 2 }));
    }

    [Theory]
    [InlineData(1, "exited with code 1")]
    [InlineData(127, "exited with code 127")]
    [InlineData(137, "was ended by signal 9 (SIGKILL)")]
    [InlineData(162, "was ended by signal 34")]
    [InlineData(255, "exited with code 255")]
    public void Exit_codes_in_words(int code, string words) => Assert.Equal(words, Signals.Describe(code));

    private LaunchOptions Job(int processes, string script) => new()
    {
        Program = "sh",
        Arguments = ["-c", script],
        ProcessesPerNode = processes,
        RunDirectory = directory,
        Output = LaunchOutput.None,
    };
}

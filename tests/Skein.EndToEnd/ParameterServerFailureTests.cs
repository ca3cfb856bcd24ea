using System.Text.RegularExpressions;

namespace Skein.EndToEnd;

/// <summary>Processes of jobs with parameter servers that die: the job ends naming them, or goes on as if nothing had been.</summary>
public sealed class ParameterServerFailureTests(TrainingRuns runs) : IDisposable
{
    private const string Died = @"its connection closed \(the process died or was killed\)";
    private const int Samples = 1437;

    private static readonly TimeSpan Prompt = TimeSpan.FromSeconds(15);
    private static readonly (string, string?) Secret = ("SKEIN_JOB_SECRET", SkeinProcess.Secret(5));

    private readonly string directory = Directory.CreateTempSubdirectory("skein-server-failure-").FullName;

    private string Run => Path.Combine(directory, "run");

    public void Dispose() => Directory.Delete(directory, recursive: true);

    [Theory]
    [InlineData(1, "--consistency", "bsp")]
    [InlineData(1, "--consistency", "async", "--straggler", "1:1000")] // killed between its pull and its push
    [InlineData(0, "--consistency", "ssp:3")]
    [InlineData(0, "--consistency", "async", "--balance")]
    public async Task A_killed_worker_ends_a_job_that_cannot_do_without(int rank, params string[] options)
    {
        await using var job = await StartAsync(["--workers", "3", "--servers", "2", "--epochs", "1000000", .. options]);
        SkeinProcess.Signal(job.Worker(rank), SkeinProcess.Kill);
        Assert.Equal(1, await job.ExitAsync(Prompt));
        Assert.Matches(
            rank == 0
                ? @"^skein: rank 0 was ended by signal 9 \(SIGKILL\); its output is in .*/rank-0\.log$"
                // Rank 0 says it, or the launcher where rank 0 had no time to.
                : $@"^skein: (worker {rank} \(process \d+ on .*\) was lost: {Died}; start the job again, with --balance if it is to go on without a worker|rank {rank} was ended by signal 9 .*)$",
            OneError(job));
        await job.NothingLeftAsync(Prompt);
    }

    [Fact]
    public async Task An_elastic_job_goes_on_without_a_killed_worker_and_counts_every_chunk_once()
    {
        const int Epochs = 10, Chunks = 90;
        await using var job = await StartAsync("--workers", "3", "--servers", "2", "--epochs", $"{Epochs}", "--consistency", "async", "--balance", "--straggler", "1:20");
        SkeinProcess.Signal(job.Worker(1), SkeinProcess.Kill);
        var result = await TrainingResult.OfAsync(job);
        Assert.Single(job.Errors, line => line.Contains("worker 1 (process ", StringComparison.Ordinal) && line.Contains("was lost", StringComparison.Ordinal));
        Assert.Equal(2, result.GetProperty("world_size").GetInt32());
        Assert.Equal([Epochs * Chunks, Epochs * Chunks], result.Numbers<long>("server_updates"));
        Assert.Equal(Epochs, result.GetProperty("epochs").GetInt32());
        Assert.InRange(result.GetProperty("test_accuracy").GetDouble(), 0.9, 1);
    }

    [Fact]
    public async Task A_worker_that_joins_an_elastic_job_takes_its_share()
    {
        const int Epochs = 15;
        await using var job = await StartAsync("--workers", "1", "--epochs", $"{Epochs}", "--consistency", "async", "--balance");
        var first = job.Worker(0);
        SkeinProcess.Signal(first, Stop);
        await using var second = SkeinProcess.Start(
            [Secret], "train", "digits", "--strategy", "parameter-server", "--epochs", $"{Epochs}", "--coordinator", SkeinProcess.Variable(first, "SKEIN_COORDINATOR")!);

        // To the coordinator, and to the shard: it is about to ask for work.
        using (var limit = new CancellationTokenSource(Prompt))
        {
            while (ProcessSockets.Connected(second.Id) < 2) await Task.Delay(20, limit.Token);
        }

        SkeinProcess.Signal(first, Continue);
        var result = await TrainingResult.OfAsync(job);
        var code = await second.ExitAsync(Prompt);
        Assert.Empty(second.Errors);
        Assert.Equal(0, code);
        Assert.Equal(2, result.GetProperty("world_size").GetInt32());
        var samples = TrainingResult.RankSamples(Run);
        Assert.Equal(Epochs * Samples, samples.Sum());
        Assert.All(samples, share => Assert.InRange(share, 1, (Epochs * Samples) - 1));
        Assert.Equal([Epochs * 30], result.Numbers<long>("server_updates"));
    }

    [Fact]
    public async Task A_worker_that_would_join_a_job_of_fixed_size_is_refused_and_the_job_goes_on()
    {
        await using var job = await StartAsync("--workers", "2", "--epochs", "1000000", "--consistency", "async", "--straggler", "1:20");
        await using var second = SkeinProcess.Start(
            [Secret], "train", "digits", "--strategy", "parameter-server", "--coordinator", SkeinProcess.Variable(job.Worker(0), "SKEIN_COORDINATOR")!);
        Assert.Equal(1, await second.ExitAsync());
        Assert.Equal(
            $"skein: process {second.Id} on {Environment.MachineName} cannot join: this job divides its data among 2 workers beforehand; start it with --balance so that workers can join",
            Assert.Single(second.Errors));
        job.Signal(SkeinProcess.Interrupt);
        Assert.Equal(130, await job.ExitAsync(Prompt));
        Assert.Empty(job.Descendants);
        Assert.DoesNotContain(job.Errors, line => line.StartsWith("skein:", StringComparison.Ordinal));
    }

    [Fact]
    public async Task A_killed_server_without_a_replica_ends_the_job_naming_its_shard()
    {
        await using var job = await StartAsync("--workers", "2", "--servers", "2", "--epochs", "1000000");
        SkeinProcess.Signal(Servers(job)[0], SkeinProcess.Kill);
        Assert.Equal(1, await job.ExitAsync(Prompt));
        Assert.Matches(
            $@"^skein: (rank \d exited with code 1: )?server shard [01] \(process \d+ on .*\) was lost and it has no replica; start with --replicas 2, or restore its checkpoint \({Died}\)(; its output is in .*)?$",
            OneError(job));
        await job.NothingLeftAsync(Prompt);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task A_killed_server_with_a_replica_changes_nothing_but_the_time(bool primary)
    {
        const int Steps = 200;
        string[] options = ["--workers", "2", "--max-steps", $"{Steps}"];
        var undisturbed = await runs.OnceAsync(["digits", "--strategy", "parameter-server", .. options]);

        await using var job = await StartAsync(["--replicas", "2", .. options]);
        var servers = Servers(job);
        Assert.Equal(2, servers.Length);
        // Two workers are connected to the primary, and only the primary to its backup.
        SkeinProcess.Signal(servers.OrderByDescending(ProcessSockets.Accepted).ElementAt(primary ? 0 : 1), SkeinProcess.Kill);
        var result = await TrainingResult.OfAsync(job);
        Assert.Single(job.Errors, line => line.Contains("server shard 0 (process ", StringComparison.Ordinal) && line.Contains("was lost", StringComparison.Ordinal));
        Assert.Equal(Steps, result.Losses().Length);
        Assert.Equal(undisturbed.Losses(), result.Losses());
        Assert.Equal(undisturbed.Checksum(), result.Checksum());
        Assert.Equal([Steps], result.Numbers<long>("server_updates"));
        Assert.InRange(LongestStep(), 0, 5);
    }

    [Fact]
    public async Task A_killed_launching_process_takes_all_along()
    {
        await using var job = await StartAsync("--workers", "2", "--servers", "2", "--epochs", "1000000");
        job.Signal(SkeinProcess.Kill);
        await job.ExitAsync(Prompt);
        await job.NothingLeftAsync(Prompt);
    }

    private const int Continue = 18;
    private const int Stop = 19;

    /// <summary>Starts a job, and waits until it has trained a few steps.</summary>
    private async Task<SkeinProcess> StartAsync(params string[] options)
    {
        var job = SkeinProcess.Start([Secret], ["train", "digits", "--strategy", "parameter-server", "--json", "--batch-size", "48", "--run-dir", Run, .. options]);
        var metrics = Path.Combine(Run, "metrics.jsonl");
        using var limit = new CancellationTokenSource(TimeSpan.FromSeconds(60));
        while (!File.Exists(metrics) || new FileInfo(metrics).Length < 1000) await Task.Delay(5, limit.Token);
        return job;
    }

    private static int[] Servers(SkeinProcess job) => [.. job.Descendants.Where(id => SkeinProcess.CommandLine(id) is [.., "serve", "--listen", _])];

    /// <summary>The one line that says what went wrong.</summary>
    private static string OneError(SkeinProcess job)
    {
        Assert.Empty(job.Output);
        return Assert.Single(job.Errors, line => !Progress.IsMatch(line));
    }

    private static readonly Regex Progress = new("^(epoch |more workers join )");

    private double LongestStep() => File.ReadLines(Path.Combine(Run, "metrics.jsonl")).Select(TrainingResult.Parse)
        .Where(line => line.TryGetProperty("step", out _))
        .Max(line => line.GetProperty("compute_seconds").GetDouble() + line.GetProperty("communication_seconds").GetDouble());
}

namespace Skein.EndToEnd;

/// <summary>Stochastic gradient push over real processes, of which some are killed.</summary>
public sealed class GossipPushTests : IDisposable
{
    private static readonly TimeSpan Prompt = TimeSpan.FromSeconds(10);

    private readonly string directory = Directory.CreateTempSubdirectory("skein-push-").FullName;

    public void Dispose() => Directory.Delete(directory, recursive: true);

    [Fact]
    public async Task Four_workers_that_push_learn_digits()
    {
        var result = await TrainingResult.RunAsync(
            "digits", "--strategy", "gossip", "--gossip", "push", "--workers", "4", "--batch-size", "48", "--epochs", "5", "--run-dir", Path.Combine(directory, "run"));
        Assert.Equal("gossip", result.GetProperty("strategy").GetString());
        Assert.Equal("push", result.GetProperty("gossip").GetString());
        Assert.Equal("exponential", result.GetProperty("topology").GetString());
        Assert.Equal(4, result.GetProperty("world_size").GetInt32());
        Assert.InRange(result.GetProperty("consensus_distance").GetDouble(), 0, 10);
        Assert.InRange(result.GetProperty("test_accuracy").GetDouble(), 0.8, 1);
        Assert.True(result.GetProperty("bytes_sent_per_worker").GetInt64() > 0);
    }

    [Fact]
    public async Task A_killed_worker_is_left_behind()
    {
        await using var job = await StartAsync("200");
        Kill(job, 2);
        var result = await TrainingResult.OfAsync(job);
        Assert.Equal(3, result.GetProperty("world_size").GetInt32());
        Assert.InRange(result.GetProperty("test_accuracy").GetDouble(), 0.8, 1);
        Assert.Contains(job.Errors, static line => line.Contains("rank 2 was lost; the others go on without it", StringComparison.Ordinal));
        await job.NothingLeftAsync(Prompt);
    }

    [Fact]
    public async Task A_killed_rank_0_ends_the_job()
    {
        await using var job = await StartAsync("1000000");
        Kill(job, 0);
        Assert.Equal(1, await job.ExitAsync(Prompt));
        Assert.Contains(job.Errors, static line => line.StartsWith("skein: rank 0 was ended by signal 9 (SIGKILL)", StringComparison.Ordinal));
        await job.NothingLeftAsync(Prompt);
    }

    [Fact]
    public async Task An_interrupted_push_ends_with_130()
    {
        await using var job = await StartAsync("1000000");
        job.Signal(SkeinProcess.Interrupt);
        Assert.Equal(130, await job.ExitAsync(Prompt));
        await job.NothingLeftAsync(Prompt);
    }

    [Theory]
    [InlineData("skein: unknown way to gossip 'shout': give average or push", "--strategy", "gossip", "--gossip", "shout")]
    [InlineData("skein: --compression is fp16, which --gossip push has not: leave it out, or use --gossip average", "--strategy", "gossip", "--gossip", "push", "--compression", "fp16")]
    [InlineData("skein: --consensus-step needs --compression, which --gossip push has not", "--strategy", "gossip", "--gossip", "push", "--consensus-step", "0.5")]
    [InlineData("skein: --transport is shm: --gossip push uses tcp", "--strategy", "gossip", "--gossip", "push", "--transport", "shm")]
    [InlineData("skein: --gossip needs --strategy gossip", "--strategy", "ddp", "--gossip", "push")]
    public async Task What_does_not_fit_is_one_line(string message, params string[] options)
    {
        var (code, output, errors) = await SkeinProcess.RunAsync(["train", "digits", "--workers", "4", "--batch-size", "48", .. options]);
        Assert.Equal(2, code);
        Assert.Equal(message, Assert.Single(errors));
        Assert.Empty(output);
    }

    private static void Kill(SkeinProcess job, int rank) =>
        SkeinProcess.Signal(job.Descendants.Single(id => SkeinProcess.Environ(id).Contains($"RANK={rank}")), SkeinProcess.Kill);

    /// <summary>A job of four, once rank 0 has taken steps.</summary>
    private async Task<SkeinProcess> StartAsync(string epochs)
    {
        var run = Path.Combine(directory, "run");
        var job = SkeinProcess.Start(
            "train", "digits", "--strategy", "gossip", "--gossip", "push", "--workers", "4", "--batch-size", "48", "--epochs", epochs, "--json", "--run-dir", run);
        var metrics = Path.Combine(run, "metrics.jsonl");
        using var limit = new CancellationTokenSource(TimeSpan.FromSeconds(60));
        while (!File.Exists(metrics) || new FileInfo(metrics).Length == 0) await Task.Delay(20, limit.Token);
        return job;
    }
}

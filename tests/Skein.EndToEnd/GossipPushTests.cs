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
    public async Task A_worker_that_is_killed_twice_comes_back_and_training_is_as_good()
    {
        // Enough for two starts.
        const string Epochs = "300";
        double undisturbed;
        await using (var job = await StartAsync(Epochs)) undisturbed = (await TrainingResult.OfAsync(job)).GetProperty("test_loss").GetDouble();
        await using (var job = await StartAsync(Epochs, "--restarts", "2"))
        {
            var first = job.Worker(2);
            SkeinProcess.Signal(first, SkeinProcess.Kill);
            SkeinProcess.Signal(await WorkerAfterAsync(job, first, 2), SkeinProcess.Kill);

            // Only ranks that all agree on the parameters come to a result.
            var result = await TrainingResult.OfAsync(job);
            Assert.Equal(4, result.GetProperty("world_size").GetInt32());
            // The second process was killed before it was let in.
            Assert.Equal(1, result.GetProperty("restarts").GetInt32());
            Assert.InRange(result.GetProperty("test_accuracy").GetDouble(), 0.95, 1);
            Assert.InRange(result.GetProperty("test_loss").GetDouble(), 0, undisturbed + 0.04);
            Assert.Equal(4, TrainingResult.RankSamples(Path.Combine(directory, "run")).Length);
            foreach (var message in new[]
            {
                "skein: rank 2 was ended by signal 9 (SIGKILL), and is started again (1 of 2)",
                "skein: rank 2 was ended by signal 9 (SIGKILL), and is started again (2 of 2)",
                "skein: warning: rank 2 was lost; the others go on without it",
            })
            {
                Assert.Contains(message, job.Errors);
            }

            Assert.Single(job.Errors, static line => line.StartsWith("skein: warning: rank 2 is back, from step ", StringComparison.Ordinal));
            await job.NothingLeftAsync(Prompt);
        }
    }

    [Fact]
    public async Task A_program_that_was_launched_outlives_losses_too()
    {
        var run = Path.Combine(directory, "run");
        await using var job = SkeinProcess.Start(
        [
            "launch", "-n", "3", "--tolerate-losses", "--restarts", "1", "--run-dir", run, "--",
            "dotnet", SkeinProcess.Program, "train", "digits", "--strategy", "gossip", "--gossip", "push", "--batch-size", "48", "--epochs", "1000000",
        ]);
        await TrainingResult.FirstStepAsync(run);
        SkeinProcess.Signal(job.Worker(1), SkeinProcess.Kill);
        // However long a start takes, the others are still at it.
        await job.WaitForLinesAsync(1, static line => line.StartsWith("[0] skein: warning: rank 1 is back, from step ", StringComparison.Ordinal));
        job.Signal(SkeinProcess.Interrupt);
        Assert.Equal(130, await job.ExitAsync(Prompt));
        Assert.Contains("skein: rank 1 was ended by signal 9 (SIGKILL), and is started again (1 of 1)", job.Errors);
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
    [InlineData("skein: --restarts is 2, which needs --strategy gossip --gossip push, whose workers can come back", "--strategy", "gossip", "--restarts", "2")]
    [InlineData("skein: --restarts is -1: give a whole number from 0", "--strategy", "gossip", "--gossip", "push", "--restarts", "-1")]
    public async Task What_does_not_fit_is_one_line(string message, params string[] options)
    {
        var (code, output, errors) = await SkeinProcess.RunAsync(["train", "digits", "--workers", "4", "--batch-size", "48", .. options]);
        Assert.Equal(2, code);
        Assert.Equal(message, Assert.Single(errors));
        Assert.Empty(output);
    }

    private static void Kill(SkeinProcess job, int rank) => SkeinProcess.Signal(job.Worker(rank), SkeinProcess.Kill);

    /// <summary>The process that has taken the place of one that was killed.</summary>
    private static async Task<int> WorkerAfterAsync(SkeinProcess job, int former, int rank)
    {
        using var limit = new CancellationTokenSource(TimeSpan.FromSeconds(60));
        while (true)
        {
            foreach (var id in job.Descendants)
            {
                if (id != former && SkeinProcess.Environ(id).Contains($"RANK={rank}")) return id;
            }

            await Task.Delay(20, limit.Token);
        }
    }

    /// <summary>A job of four, once rank 0 has taken steps.</summary>
    private async Task<SkeinProcess> StartAsync(string epochs, params string[] options)
    {
        var run = Path.Combine(directory, "run");
        if (Directory.Exists(run)) Directory.Delete(run, recursive: true);
        var job = SkeinProcess.Start(
            ["train", "digits", "--strategy", "gossip", "--gossip", "push", "--workers", "4", "--batch-size", "48", "--epochs", epochs, "--json", "--run-dir", run, .. options]);
        await TrainingResult.FirstStepAsync(run);
        return job;
    }
}

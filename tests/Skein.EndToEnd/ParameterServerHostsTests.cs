namespace Skein.EndToEnd;

/// <summary>The parts of a job with parameter servers started one by one, as on hosts of their own, and its checkpoints.</summary>
public sealed class ParameterServerHostsTests(TrainingRuns runs) : IDisposable
{
    private static readonly (string, string?) Secret = ("SKEIN_JOB_SECRET", SkeinProcess.Secret(5));
    private static readonly TimeSpan Prompt = TimeSpan.FromSeconds(10);

    private readonly string directory = Directory.CreateTempSubdirectory("skein-hosts-").FullName;

    public void Dispose() => Directory.Delete(directory, recursive: true);

    [Fact]
    public async Task Parts_on_hosts_of_their_own_train_as_one_job_does()
    {
        await using var coordinator = SkeinProcess.Start(
            [Secret], "parameter-server", "coordinate", "--workers", "2", "--servers", "2", "--server-optimizer", "momentum");
        var address = await AddressAsync(coordinator);

        await using var stranger = SkeinProcess.Start(
            [("SKEIN_JOB_SECRET", SkeinProcess.Secret(6))], "parameter-server", "serve", "--coordinator", address);
        await using var first = Serve();
        await using var second = Serve();
        await using var rank0 = Rank(0);
        await using var rank1 = Rank(1);
        var result = await TrainingResult.OfAsync(rank0);
        foreach (var part in new[] { rank1, first, second, coordinator })
        {
            Assert.Equal(0, await part.ExitAsync(Prompt));
            Assert.DoesNotContain(part.Errors, line => line.StartsWith("skein:", StringComparison.Ordinal));
        }

        Assert.Equal(1, await stranger.ExitAsync());
        Assert.Contains("secret", Assert.Single(stranger.Errors), StringComparison.Ordinal);
        Assert.Empty(rank1.Output);

        TrainingResult.AssertSameLosses((await runs.DigitsAsync()).Losses()[..30], result.Losses());
        Assert.Equal([30, 30], result.Numbers<long>("server_updates"));

        SkeinProcess Serve() => SkeinProcess.Start([Secret], "parameter-server", "serve", "--coordinator", address);

        SkeinProcess Rank(int rank) => SkeinProcess.Start(
            [Secret, ("RANK", $"{rank}"), ("WORLD_SIZE", "2"), ("SKEIN_COORDINATOR", address)],
            "train", "digits", "--strategy", "parameter-server", "--max-steps", "30", "--json", "--run-dir", Path.Combine(directory, "run"));
    }

    [Theory]
    [InlineData("coordinate")]
    [InlineData("serve")]
    public async Task An_interrupted_part_ends_with_130(string part)
    {
        await using var coordinator = SkeinProcess.Start([Secret], "parameter-server", "coordinate");
        var address = await AddressAsync(coordinator);
        await using var server = SkeinProcess.Start([Secret], "parameter-server", "serve", "--coordinator", address);
        using var limit = new CancellationTokenSource(TimeSpan.FromSeconds(30));
        while (ProcessSockets.Accepted(coordinator.Id) == 0) await Task.Delay(20, limit.Token);
        var interrupted = part == "serve" ? server : coordinator;
        interrupted.Signal(SkeinProcess.Interrupt);
        Assert.Equal(130, await interrupted.ExitAsync(Prompt));
    }

    [Fact]
    public async Task Training_resumes_with_the_parameters_of_the_checkpoint()
    {
        var checkpoints = Path.Combine(directory, "checkpoints");
        var saved = await TrainAsync("--max-steps", "20", "--checkpoint-every", "10", "--replicas", "2");
        Assert.Equal(["shard-0.ckpt", "shard-0.previous.ckpt", "shard-1.ckpt", "shard-1.previous.ckpt"], Directory.GetFiles(checkpoints).Select(Path.GetFileName).Order());

        // A step of this size changes no parameter.
        var unchanged = await TrainAsync("--max-steps", "1", "--learning-rate", "1e-30", "--resume");
        Assert.Equal(saved.Checksum(), unchanged.Checksum());
        Assert.Equal(20, unchanged.GetProperty("resumed_from_step").GetInt64());
        Assert.Equal([21, 21], unchanged.Numbers<long>("server_updates"));
        Assert.True(unchanged.Losses()[0] < saved.Losses()[0] - 0.2, $"{unchanged.Losses()[0]} after resuming, {saved.Losses()[0]} afresh");

        Task<System.Text.Json.JsonElement> TrainAsync(params string[] options) => TrainingResult.RunAsync(
        [
            "digits", "--strategy", "parameter-server", "--servers", "2", "--run-dir", Path.Combine(directory, "run"),
            "--checkpoint-dir", checkpoints, .. options,
        ]);
    }

    private static async Task<string> AddressAsync(SkeinProcess coordinator)
    {
        const string Start = "coordinator at ";
        await coordinator.WaitForLinesAsync(1, line => line.StartsWith(Start, StringComparison.Ordinal));
        return coordinator.Errors.Single(line => line.StartsWith(Start, StringComparison.Ordinal))[Start.Length..];
    }
}

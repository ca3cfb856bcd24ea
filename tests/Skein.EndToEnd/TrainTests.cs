using System.Text.Json;

namespace Skein.EndToEnd;

/// <summary>Training over real processes, against the single process and against itself.</summary>
public sealed class TrainTests : IDisposable
{
    // Divides by every number of workers that is tried.
    private static readonly string[] Fifty = ["digits", "--batch-size", "48", "--max-steps", "50"];

    private readonly string directory = Directory.CreateTempSubdirectory("skein-train-").FullName;

    public void Dispose() => Directory.Delete(directory, recursive: true);

    [Theory]
    [InlineData(2, "shm", "auto")]
    [InlineData(3, "shm", "ring")]
    [InlineData(4, "shm", "halving-doubling")]
    [InlineData(2, "tcp", "ring")]
    [InlineData(3, "tcp", "tree")]
    [InlineData(4, "tcp", "hierarchical")]
    public async Task Any_number_of_workers_sees_the_losses_of_one(int workers, string transport, string algorithm)
    {
        var single = await TrainAsync("one", "--workers", "1");
        var job = await TrainAsync("many", "--workers", $"{workers}", "--transport", transport, "--algorithm", algorithm);
        Assert.Equal(workers, job.GetProperty("world_size").GetInt32());
        Assert.Equal(transport, job.GetProperty("transport").GetString());
        Assert.Equal(50, single.Losses().Length);
        TrainingResult.AssertSameLosses(single.Losses(), job.Losses());
        Assert.Equal(single.GetProperty("test_accuracy").GetDouble(), job.GetProperty("test_accuracy").GetDouble(), 0.02);
    }

    [Theory]
    [InlineData(1, "auto")]
    [InlineData(3, "shm")]
    [InlineData(2, "tcp")]
    public async Task The_same_seed_gives_the_same_parameters_to_the_last_bit(int workers, string transport)
    {
        string[] options = ["--workers", $"{workers}", "--transport", transport];
        var checksum = (await TrainAsync("a", [.. options, "--seed", "5"])).Checksum();
        Assert.Matches("^[0-9a-f]{64}$", checksum);
        Assert.Equal(checksum, (await TrainAsync("b", [.. options, "--seed", "5"])).Checksum());
        Assert.NotEqual(checksum, (await TrainAsync("c", [.. options, "--seed", "6"])).Checksum());
    }

    [Fact]
    public async Task The_run_directory_holds_what_happened()
    {
        var printed = await TrainAsync("run", "--workers", "2");
        var run = Path.Combine(directory, "run");
        Assert.Equal(run, printed.GetProperty("run_directory").GetString());
        using var saved = JsonDocument.Parse(await File.ReadAllTextAsync(Path.Combine(run, "summary.json")));
        Assert.Equal(printed.Checksum(), saved.RootElement.Checksum());
        Assert.All(["config.json", "rank-0.log", "rank-1.log"], file => Assert.True(File.Exists(Path.Combine(run, file)), file));
        Assert.Equal(50 + 2, File.ReadLines(Path.Combine(run, "metrics.jsonl")).Count());
    }

    [Fact]
    public async Task Workers_of_a_launched_job_join_it()
    {
        await using var job = SkeinProcess.Start(
            ["launch", "-n", "2", "--run-dir", directory, "--", "dotnet", SkeinProcess.Program, "train", .. Fifty, "--json"]);
        Assert.Equal(0, await job.ExitAsync());
        var line = Assert.Single(job.Output);
        Assert.StartsWith("[0] {", line, StringComparison.Ordinal);
        TrainingResult.AssertSameLosses((await TrainAsync("one", "--workers", "1")).Losses(), TrainingResult.Parse(line[4..]).Losses());
    }

    [Fact]
    public async Task Mpirun_runs_the_same()
    {
        Assert.SkipUnless(File.Exists("/usr/bin/mpirun"), "needs Open MPI (Debian: apt-get install openmpi-bin libopenmpi-dev)");
        await using var job = SkeinProcess.StartProgram(
            "mpirun",
            [("OMPI_ALLOW_RUN_AS_ROOT", "1"), ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")],
            ["-n", "2", "--oversubscribe", "dotnet", SkeinProcess.Program, "train", .. Fifty, "--json", "--run-dir", Path.Combine(directory, "mpi")]);
        Assert.True(await job.ExitAsync() == 0, string.Join('\n', job.Errors));
        var result = TrainingResult.Parse(job.Output[^1]);
        Assert.Equal("mpi", result.GetProperty("transport").GetString());
        Assert.Equal(2, result.GetProperty("world_size").GetInt32());
        TrainingResult.AssertSameLosses((await TrainAsync("one", "--workers", "1")).Losses(), result.Losses());
    }

    [Theory]
    [InlineData("mf", 2)]
    [InlineData("mf", 3)]
    [InlineData("two-tower", 2)]
    public async Task Ratings_are_learned_alike_by_any_number_of_workers(string model, int workers)
    {
        string[] arguments = ["lecture-ratings", "--model", model, "--max-steps", "50", "--json"];
        var single = await TrainingResult.RunAsync([.. arguments, "--run-dir", Path.Combine(directory, "one")]);
        var job = await TrainingResult.RunAsync([.. arguments, "--run-dir", Path.Combine(directory, "many"), "--workers", $"{workers}"]);
        TrainingResult.AssertSameLosses(single.Losses(), job.Losses());
        foreach (string metric in (string[])["test_rmse", "baseline_rmse_global_mean", "baseline_rmse_biases"])
        {
            Assert.Equal(single.GetProperty(metric).GetDouble(), job.GetProperty(metric).GetDouble(), 1e-3);
        }

        Assert.InRange(job.GetProperty("recall_at_10").GetDouble(), 0, 1);
        Assert.Equal(JsonValueKind.Null, job.GetProperty("test_accuracy").ValueKind);
        Assert.Equal(JsonValueKind.Null, (await TrainAsync("digits")).GetProperty("recall_at_10").ValueKind);
    }

    private Task<JsonElement> TrainAsync(string run, params string[] options) =>
        TrainingResult.RunAsync([.. Fifty, "--run-dir", Path.Combine(directory, run), .. options]);
}

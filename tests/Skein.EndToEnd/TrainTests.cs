using System.Text.Json;

namespace Skein.EndToEnd;

/// <summary>Training over real processes, against the single process and against itself.</summary>
public sealed class TrainTests(TrainingRuns runs) : IDisposable
{
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
        var single = await runs.DigitsAsync();
        var job = await runs.DigitsAsync($"--workers {workers} --transport {transport} --algorithm {algorithm}");
        Assert.Equal(workers, job.GetProperty("world_size").GetInt32());
        Assert.Equal(transport, job.GetProperty("transport").GetString());
        Assert.Equal(50, single.Losses().Length);
        TrainingResult.AssertSameLosses(single.Losses(), job.Losses());
        Assert.Equal(single.GetProperty("test_accuracy").GetDouble(), job.GetProperty("test_accuracy").GetDouble(), 0.02);
    }

    [Theory]
    [InlineData("")]
    [InlineData("--workers 3 --transport shm --algorithm ring")]
    [InlineData("--workers 2 --transport tcp --algorithm ring")]
    public async Task The_same_seed_gives_the_same_parameters_to_the_last_bit(string options)
    {
        var checksum = (await runs.DigitsAsync(options)).Checksum();
        Assert.Matches("^[0-9a-f]{64}$", checksum);
        Assert.Equal(checksum, (await runs.DigitsAgainAsync(options)).Checksum());
    }

    [Fact]
    public async Task Another_seed_gives_other_parameters() =>
        Assert.NotEqual((await runs.DigitsAsync()).Checksum(), (await runs.DigitsAsync("--seed 6")).Checksum());

    [Fact]
    public async Task The_run_directory_holds_what_happened()
    {
        var run = Path.Combine(directory, "run");
        var printed = await TrainingResult.RunAsync([.. TrainingRuns.FiftyOfDigits, "--workers", "2", "--run-dir", run]);
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
            ["launch", "-n", "2", "--run-dir", directory, "--", "dotnet", SkeinProcess.Program, "train", .. TrainingRuns.FiftyOfDigits, "--json"]);
        Assert.Equal(0, await job.ExitAsync());
        var line = Assert.Single(job.Output);
        Assert.StartsWith("[0] {", line, StringComparison.Ordinal);
        TrainingResult.AssertSameLosses((await runs.DigitsAsync()).Losses(), TrainingResult.Parse(line[4..]).Losses());
    }

    [Fact]
    public async Task Mpirun_runs_the_same()
    {
        Assert.SkipUnless(File.Exists("/usr/bin/mpirun"), "needs Open MPI (Debian: apt-get install openmpi-bin libopenmpi-dev)");
        await using var job = SkeinProcess.StartProgram(
            "mpirun",
            [("OMPI_ALLOW_RUN_AS_ROOT", "1"), ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")],
            ["-n", "2", "--oversubscribe", "dotnet", SkeinProcess.Program, "train", .. TrainingRuns.FiftyOfDigits, "--json", "--run-dir", Path.Combine(directory, "mpi")]);
        Assert.True(await job.ExitAsync() == 0, string.Join('\n', job.Errors));
        var result = TrainingResult.Parse(job.Output[^1]);
        Assert.Equal("mpi", result.GetProperty("transport").GetString());
        Assert.Equal(2, result.GetProperty("world_size").GetInt32());
        TrainingResult.AssertSameLosses((await runs.DigitsAsync()).Losses(), result.Losses());
    }

    [Theory]
    [InlineData("mf", 2)]
    [InlineData("mf", 3)]
    [InlineData("two-tower", 2)]
    public async Task Ratings_are_learned_alike_by_any_number_of_workers(string model, int workers)
    {
        string[] arguments = ["lecture-ratings", "--model", model, "--max-steps", "50"];
        var single = await runs.OnceAsync(arguments);
        var job = await runs.OnceAsync([.. arguments, "--workers", $"{workers}"]);
        TrainingResult.AssertSameLosses(single.Losses(), job.Losses());
        foreach (string metric in (string[])["test_rmse", "baseline_rmse_global_mean", "baseline_rmse_biases"])
        {
            Assert.Equal(single.GetProperty(metric).GetDouble(), job.GetProperty(metric).GetDouble(), 1e-3);
        }

        Assert.InRange(job.GetProperty("recall_at_10").GetDouble(), 0, 1);
        Assert.Equal(JsonValueKind.Null, job.GetProperty("test_accuracy").ValueKind);
        Assert.Equal(JsonValueKind.Null, (await runs.DigitsAsync()).GetProperty("recall_at_10").ValueKind);
    }
}

using System.Text.Json;

namespace Skein.EndToEnd;

/// <summary>Training with parameter servers over real processes, against data parallelism and the single process.</summary>
public sealed class ParameterServerTests(TrainingRuns runs) : IDisposable
{
    private const int Steps = 50;

    private readonly string directory = Directory.CreateTempSubdirectory("skein-servers-").FullName;

    public void Dispose() => Directory.Delete(directory, recursive: true);

    [Fact]
    public async Task Bulk_synchronous_training_sees_the_losses_of_data_parallelism()
    {
        var expected = await runs.DigitsAsync(TrainingRuns.TwoWorkers);
        var job = await ServeAsync("a", "--workers", "2", "--servers", "2");
        TrainingResult.AssertSameLosses(expected.Losses(), job.Losses());
        TrainingResult.AssertSameLosses(expected.Losses(), (await ServeAsync("b", "--workers", "3", "--servers", "1")).Losses());
        Assert.Equal(job.Checksum(), (await ServeAsync("c", "--workers", "2", "--servers", "2")).Checksum());

        Assert.Equal("parameter-server", job.GetProperty("strategy").GetString());
        Assert.Equal(2, job.GetProperty("world_size").GetInt32());
        Assert.Equal(2, job.GetProperty("servers").GetInt32());
        Assert.Equal("bsp", job.GetProperty("consistency").GetString());
        Assert.Equal("tcp", job.GetProperty("transport").GetString());
        Assert.Equal(0, job.GetProperty("mean_staleness").GetDouble());
        Assert.Equal(0, job.GetProperty("max_staleness").GetInt64());
        Assert.Equal([2 * 2 * Steps], job.Numbers<long>("staleness_histogram"));
        Assert.Equal([Steps, Steps], job.Numbers<long>("server_updates"));
        Assert.Equal(Steps, job.GetProperty("steps").GetInt64());
        Assert.Equal(JsonValueKind.Null, job.GetProperty("resumed_from_step").ValueKind);
        Assert.Equal(expected.GetProperty("test_accuracy").GetDouble(), job.GetProperty("test_accuracy").GetDouble(), 1e-9);
    }

    [Fact]
    public async Task Workers_that_push_as_one_host_see_the_losses_of_data_parallelism_and_the_servers_see_hosts()
    {
        var expected = await runs.DigitsAsync(TrainingRuns.TwoWorkers);
        var job = await ServeAsync("hosts", "--workers", "4", "--servers", "2", "--aggregate", "2");
        TrainingResult.AssertSameLosses(expected.Losses(), job.Losses());
        Assert.Equal(4, job.GetProperty("world_size").GetInt32());
        Assert.Equal([2 * 2 * Steps], job.Numbers<long>("staleness_histogram")); // two hosts push to two shards
    }

    [Theory]
    [InlineData("mf")]
    [InlineData("two-tower")]
    public async Task Embeddings_on_the_servers_are_learned_alike_by_any_number_of_workers(string model)
    {
        string[] arguments = ["lecture-ratings", "--model", model, "--max-steps", $"{Steps}", "--strategy", "parameter-server"];
        var one = await runs.OnceAsync([.. arguments, "--servers", "1", "--workers", "1"]);
        var job = await runs.OnceAsync([.. arguments, "--servers", "2", "--workers", "2"]);
        TrainingResult.AssertSameLosses(one.Losses(), job.Losses());
        Assert.Equal(one.GetProperty("test_rmse").GetDouble(), job.GetProperty("test_rmse").GetDouble(), 1e-3);
        Assert.InRange(job.GetProperty("test_rmse").GetDouble(), 1.1, job.GetProperty("baseline_rmse_global_mean").GetDouble());
    }

    [Fact]
    public async Task Adam_on_the_servers_is_Adam_on_the_workers()
    {
        string[] options = ["--workers", "2", "--learning-rate", "0.002"];
        var expected = await TrainAsync("ddp", ["--strategy", "ddp", "--optimizer", "adam", .. options]);
        var job = await ServeAsync("servers", ["--servers", "2", "--server-optimizer", "adam", .. options]);
        TrainingResult.AssertSameLosses(expected.Losses(), job.Losses());
    }

    [Fact]
    public async Task A_bound_holds_though_one_worker_is_slow()
    {
        var job = await ServeAsync("ssp", "--workers", "3", "--consistency", "ssp:2", "--straggler", "1:3");
        Assert.Equal("ssp:2", job.GetProperty("consistency").GetString());
        Assert.InRange(job.GetProperty("max_staleness").GetInt64(), 1, 2);
        Assert.Equal(3 * (Steps + 1), job.Numbers<long>("staleness_histogram").Sum()); // every pull, the first included
        Assert.Equal([3 * Steps], job.Numbers<long>("server_updates"));
        Assert.InRange(job.GetProperty("test_accuracy").GetDouble(), 0.7, 1);
    }

    [Fact]
    public async Task Asynchronous_training_tells_how_stale_its_gradients_were()
    {
        var job = await ServeAsync("async", "--workers", "2", "--servers", "2", "--consistency", "async", "--straggler", "1:3");
        var histogram = job.Numbers<long>("staleness_histogram");
        Assert.Equal(2 * 2 * Steps, histogram.Sum()); // every push to every shard
        Assert.Equal(histogram.Index().Sum(entry => (double)entry.Index * entry.Item) / histogram.Sum(), job.GetProperty("mean_staleness").GetDouble(), 1e-9);
        Assert.Equal(Array.FindLastIndex(histogram, count => count > 0), job.GetProperty("max_staleness").GetInt64());
        Assert.InRange(job.GetProperty("max_staleness").GetInt64(), 1, Steps);
        Assert.Equal([2 * Steps, 2 * Steps], job.Numbers<long>("server_updates"));
        Assert.InRange(job.GetProperty("test_accuracy").GetDouble(), 0.7, 1);
    }

    [Fact]
    public async Task One_asynchronous_worker_is_a_single_process()
    {
        var expected = await runs.DigitsAsync();
        var job = await ServeAsync("async", "--consistency", "async", "--servers", "2");
        TrainingResult.AssertSameLosses(expected.Losses(), job.Losses());
        Assert.Equal(0, job.GetProperty("max_staleness").GetInt64());
    }

    [Fact]
    public async Task A_queue_gives_each_sample_to_one_worker()
    {
        var job = await TrainingResult.RunAsync(
            "digits", "--strategy", "parameter-server", "--workers", "2", "--consistency", "async", "--balance", "--epochs", "2",
            "--run-dir", Path.Combine(directory, "balance"));
        Assert.Equal(2 * 1437, TrainingResult.RankSamples(Path.Combine(directory, "balance")).Sum());
        Assert.Equal([2 * 60], job.Numbers<long>("server_updates")); // 60 chunks of 24 samples, the last one of 21
        Assert.Equal(2, job.GetProperty("epochs").GetInt32());
    }

    [Fact]
    public async Task A_worker_that_stops_within_an_epoch_leaves_nobody_waiting_for_its_chunk()
    {
        var job = await ServeAsync("limit", "--workers", "2", "--consistency", "async", "--balance", "--epochs", "1", "--straggler", "1:30");
        Assert.InRange(job.GetProperty("steps").GetInt64(), 1, Steps);
        Assert.Equal([60], job.Numbers<long>("server_updates"));
        Assert.Equal(1437, TrainingResult.RankSamples(Path.Combine(directory, "limit")).Sum());
    }

    private Task<JsonElement> ServeAsync(string run, params string[] options) => TrainAsync(run, ["--strategy", "parameter-server", .. options]);

    private Task<JsonElement> TrainAsync(string run, params string[] options) =>
        TrainingResult.RunAsync([.. TrainingRuns.FiftyOfDigits, "--run-dir", Path.Combine(directory, run), .. options]);
}

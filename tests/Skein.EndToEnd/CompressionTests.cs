using System.Text.Json;

namespace Skein.EndToEnd;

/// <summary>Training with fewer bytes, over real processes and sockets.</summary>
public sealed class CompressionTests(TrainingRuns runs) : IDisposable
{
    private const string OverSockets = "--transport tcp --algorithm ring";
    private static readonly string[] Sixty = ["digits", "--workers", "3", "--batch-size", "48", "--max-steps", "60"];

    private readonly string directory = Directory.CreateTempSubdirectory("skein-compression-").FullName;

    public void Dispose() => Directory.Delete(directory, recursive: true);

    [Theory]
    [InlineData("fp16", 1.95, 2.01)]
    [InlineData("int8", 3.8, 4)]
    [InlineData("qsgd:4", 7, 15)]
    [InlineData("topk:0.05", 15, 20)]
    [InlineData("powersgd:2", 11, 13)]
    [InlineData("signsgd", 28, 32)]
    [InlineData("topk:0.05;bias=none", 12, 20)]
    public async Task As_many_times_fewer_bytes_leave_a_worker_and_it_learns_as_much(string method, double atLeast, double atMost)
    {
        JsonElement plain = await TrainAsync();
        JsonElement job = await TrainAsync("--compression", method);
        Assert.Equal(method, job.GetProperty("compression").GetString());
        double ratio = job.GetProperty("compression_ratio").GetDouble();
        Assert.InRange(ratio, atLeast, atMost);
        // What the process group counted at its sockets; the flags of each bucket come on top.
        double sent = plain.GetProperty("bytes_sent_per_worker").GetDouble() / job.GetProperty("bytes_sent_per_worker").GetDouble();
        Assert.InRange(sent, ratio * 0.7, ratio * 1.02);
        Assert.InRange(job.GetProperty("compression_error").GetDouble(), 1e-5, 1);
        Assert.InRange(job.GetProperty("compression_seconds").GetDouble(), 1e-6, job.GetProperty("communication_seconds").GetDouble());
        Assert.Equal(0, job.GetProperty("skipped_steps").GetInt64());
        Assert.InRange(job.GetProperty("test_accuracy").GetDouble(), plain.GetProperty("test_accuracy").GetDouble() - 0.15, 1);
    }

    [Theory]
    [InlineData("qsgd:4", "--transport shm")]
    [InlineData("topk:0.05", OverSockets)]
    [InlineData("powersgd:2", OverSockets)]
    public async Task The_same_seed_gives_the_same_parameters_to_the_last_bit(string method, string transport)
    {
        string[] arguments = [.. Sixty, .. transport.Split(' '), "--compression", method];
        Assert.Equal((await runs.OnceAsync(arguments)).Checksum(), (await runs.AgainAsync(arguments)).Checksum());
    }

    [Fact]
    public async Task Without_compression_its_fields_are_null()
    {
        JsonElement job = await TrainAsync("--compression", "none");
        Assert.Equal("none", job.GetProperty("compression").GetString());
        foreach (string field in new[] { "compression_ratio", "compression_seconds", "compression_error", "skipped_steps" }) Assert.Equal(JsonValueKind.Null, job.GetProperty(field).ValueKind);
    }

    [Fact]
    public async Task Workers_that_meet_after_every_step_train_as_data_parallel_ones()
    {
        // The mean of the parameters after a plain step from the same point is a plain step by the mean gradient.
        JsonElement together = await TrainAsync("--optimizer", "sgd");
        JsonElement meeting = await TrainAsync("--optimizer", "sgd", "--strategy", "local-sgd", "--local-steps", "1");
        Assert.Equal(together.GetProperty("test_loss").GetDouble(), meeting.GetProperty("test_loss").GetDouble(), 1e-4);
        Assert.Equal("local-sgd", meeting.GetProperty("strategy").GetString());
    }

    [Fact]
    public async Task Workers_that_meet_seldom_send_as_many_times_less()
    {
        JsonElement together = await TrainAsync();
        JsonElement seldom = await TrainAsync("--strategy", "local-sgd", "--local-steps", "20");
        JsonElement diloco = await TrainAsync("--strategy", "local-sgd", "--local-steps", "20", "--outer", "diloco", "--optimizer", "adamw", "--learning-rate", "0.003", "--compression", "int8");
        double sent = together.GetProperty("bytes_sent_per_worker").GetDouble();
        // The workers begin equal, so only digests of the parameters travel at the start.
        Assert.InRange(sent / seldom.GetProperty("bytes_sent_per_worker").GetDouble(), 19.5, 20);
        Assert.InRange(sent / diloco.GetProperty("bytes_sent_per_worker").GetDouble(), 70, 80);
        foreach (JsonElement job in new[] { seldom, diloco }) Assert.InRange(job.GetProperty("test_accuracy").GetDouble(), 0.8, 1);
    }

    [Fact]
    public async Task A_slow_network_takes_the_time_that_its_bandwidth_says()
    {
        string run = Path.Combine(directory, "slow");
        await using SkeinProcess process = SkeinProcess.Start(
            "launch", "-n", "2", "--emulate-bandwidth", "20Mbit", "--emulate-latency", "1ms", "--",
            "dotnet", SkeinProcess.Program, "train", "digits", "--batch-size", "48", "--max-steps", "30", "--json", "--run-dir", run);
        Assert.Equal(0, await process.ExitAsync());
        JsonElement job = TrainingResult.Parse(await File.ReadAllTextAsync(Path.Combine(run, "summary.json")));
        double expected = job.GetProperty("bytes_sent_per_worker").GetDouble() * 8 / 20e6;
        // The first bucket of tokens is free, and two steps' latencies come on top.
        Assert.InRange(job.GetProperty("communication_seconds").GetDouble(), 0.7 * expected, double.MaxValue);
        Assert.Equal("tcp", job.GetProperty("transport").GetString());
    }

    [Theory]
    [InlineData("unknown compression 'zip'; choose one of: none, fp16, bf16, int8, qsgd:BITS, topk:RATIO, randomk:RATIO, powersgd:RANK, signsgd, signsgd:majority, auto", "--compression", "zip")]
    [InlineData("compression 'topk:2': RATIO is a number above 0 and at most 1", "--compression", "topk:2")]
    [InlineData("compression 'qsgd:1': BITS is a whole number from 2 to 8", "--compression", "qsgd:1")]
    [InlineData("compression 'powersgd:0': RANK is a whole number from 1 to 1024", "--compression", "powersgd:0")]
    [InlineData("compression rule 'bias': write TEXT=METHOD, where TEXT occurs in parameters' names, for example bias,norm=none", "--compression", "topk:0.1;bias")]
    [InlineData("--compression-warmup needs --compression", "--compression-warmup", "5")]
    [InlineData("--compression-clip needs --compression", "--compression-clip", "1")]
    [InlineData("the norm to which gradients are clipped before compression is 0: give a number above 0", "--compression", "topk:0.1", "--compression-clip", "0")]
    [InlineData("the number of compression warm-up steps is -1: give a whole number from 0", "--compression", "topk:0.1", "--compression-warmup", "-1")]
    [InlineData("the number of local steps is 0: give a whole number from 1", "--strategy", "local-sgd", "--local-steps", "0")]
    [InlineData("unknown outer optimizer 'adam'; choose one of: average, diloco", "--strategy", "local-sgd", "--outer", "adam")]
    [InlineData("--outer-momentum needs --outer diloco", "--strategy", "local-sgd", "--outer-momentum", "0.5")]
    [InlineData("--local-steps needs --strategy local-sgd", "--local-steps", "5")]
    [InlineData("the compression is auto: ranks that meet need one method", "--strategy", "local-sgd", "--compression", "auto")]
    public async Task What_makes_no_sense_is_refused(string message, params string[] options)
    {
        (int code, string[] output, string[] errors) = await SkeinProcess.RunAsync(["train", "digits", "--workers", "2", .. options]);
        Assert.Equal(2, code);
        Assert.Empty(output);
        Assert.Equal($"skein: {message}", Assert.Single(errors));
    }

    [Theory]
    [InlineData("single", "1")]
    [InlineData("parameter-server", "2")]
    public async Task Other_strategies_do_not_compress(string strategy, string workers)
    {
        (int code, _, string[] errors) = await SkeinProcess.RunAsync("train", "digits", "--strategy", strategy, "--workers", workers, "--compression", "fp16");
        Assert.Equal(2, code);
        Assert.StartsWith("skein: --compression is fp16, which needs --strategy", Assert.Single(errors), StringComparison.Ordinal);
    }

    private Task<JsonElement> TrainAsync(params string[] options) => runs.OnceAsync([.. Sixty, .. OverSockets.Split(' '), .. options]);
}

namespace Skein.EndToEnd;

/// <summary>What does not fit is one line that names it, before anything is started where that can be known.</summary>
public sealed class ParameterServerUsageTests : IDisposable
{
    private const string Consistencies = "choose bsp, ssp:BOUND (BOUND a whole number of steps from 0 to 2147483647) or async";
    private const string NoSecret =
        "no secret for the job: set SKEIN_JOB_SECRET (or SKEIN_JOB_SECRET_FILE) to the output of: openssl rand -hex 32, the same for every process";

    private readonly string directory = Directory.CreateTempSubdirectory("skein-server-usage-").FullName;

    public void Dispose() => Directory.Delete(directory, recursive: true);

    [Theory]
    [InlineData($"unknown consistency 'foo'; {Consistencies}", "--consistency", "foo")]
    [InlineData($"unknown consistency 'ssp:-1'; {Consistencies}", "--consistency", "ssp:-1")]
    [InlineData(
        "unknown staleness weighting 'foo'; choose none, inverse, exponential:RATE or polynomial:ALPHA (RATE and ALPHA finite numbers above 0)",
        "--consistency", "async", "--staleness-weighting", "foo")]
    [InlineData("--staleness-weighting needs --consistency ssp:BOUND or async: with bsp no gradient is stale", "--staleness-weighting", "inverse")]
    [InlineData("--delay-compensation needs --consistency ssp:BOUND or async: with bsp no gradient is delayed", "--delay-compensation", "1")]
    [InlineData("--balance needs --consistency async: with bsp no worker may take more steps than another", "--balance")]
    [InlineData("--balance needs --consistency async: with ssp:2 no worker may take more steps than another but for the bound", "--balance", "--consistency", "ssp:2")]
    [InlineData("--servers is 0: give a whole number from 1", "--servers", "0")]
    [InlineData("--replicas is 3: give 1, or 2 for a backup of each shard", "--replicas", "3")]
    [InlineData("--straggler is '9:2': give RANK:FACTOR, with a rank from 0 to 1 and a factor from 1 to 1000", "--straggler", "9:2", "--workers", "2")]
    [InlineData("parameter servers have no adamw: give --server-optimizer sgd, momentum, adam or adagrad", "--optimizer", "adamw")]
    [InlineData("--checkpoint-every needs --checkpoint-dir DIR", "--checkpoint-every", "10")]
    [InlineData("--checkpoint-every is 0: give a whole number from 1", "--checkpoint-every", "0", "--checkpoint-dir", "here")]
    [InlineData("--checkpoint-dir needs --checkpoint-every K or --resume", "--checkpoint-dir", "here")]
    [InlineData("--resume needs --checkpoint-dir DIR", "--resume")]
    [InlineData("--transport is shm: parameter servers use tcp", "--transport", "shm")]
    [InlineData("--algorithm needs --strategy ddp: parameter servers use no all-reduce", "--algorithm", "ring")]
    [InlineData("the coordinator's address is 'here': give HOST:PORT", "--coordinator", "here")]
    [InlineData("--workers is 2, but only one worker joins a running job at a time: start skein train once for each", "--coordinator", "127.0.0.1:1", "--workers", "2")]
    public Task Training_refuses(string message, params string[] options) =>
        RefusesAsync(2, message, ["train", "digits", "--strategy", "parameter-server", .. options]);

    [Theory]
    [InlineData("--servers", "2")]
    [InlineData("--coordinator", "127.0.0.1:1")]
    [InlineData("--checkpoint-dir", "here")]
    [InlineData("--resume")]
    public Task Other_strategies_have_no_servers(params string[] options) =>
        RefusesAsync(2, $"{options[0]} needs --strategy parameter-server", ["train", "digits", .. options]);

    [Theory]
    [InlineData("no coordinator: give --coordinator HOST:PORT, or set SKEIN_COORDINATOR", "serve")]
    [InlineData(NoSecret, "serve", "--coordinator", "127.0.0.1:1")]
    [InlineData("the coordinator's address is 'here': give HOST:PORT", "serve", "--coordinator", "here")]
    [InlineData(NoSecret, "coordinate")]
    [InlineData("--workers is 0: give a whole number from 1", "coordinate", "--workers", "0")]
    [InlineData("--port is 70000: give a number from 0 to 65535", "coordinate", "--port", "70000")]
    [InlineData("--listen is 'here': give an IP address of this host", "serve", "--coordinator", "127.0.0.1:1", "--listen", "here")]
    [InlineData("unknown workload 'mnist'; choose one of: digits, fashion-mnist, lecture-ratings, synthetic-ratings, language-model", "placement", "mnist")]
    [InlineData("unknown model of digits 'vast'; choose one of: mlp", "placement", "digits", "--model", "vast")]
    [InlineData("5 servers are more than the 4 parameters need, and server 4 would hold nothing; use fewer servers", "placement", "digits", "--servers", "5")]
    public Task The_parts_refuse(string message, params string[] arguments) => RefusesAsync(2, message, ["parameter-server", .. arguments]);

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    public async Task More_servers_than_parameters_are_refused_when_the_model_is_known(int workers)
    {
        await using var job = SkeinProcess.Start("train", "digits", "--strategy", "parameter-server", "--servers", "5", "--workers", $"{workers}", "--run-dir", directory);
        Assert.Equal(1, await job.ExitAsync());
        Assert.Matches(ByAnyRank("5 servers are more than the 4 parameters need, and server 4 would hold nothing; use fewer servers"), Assert.Single(job.Errors));
        Assert.Empty(job.Descendants);
    }

    [Fact]
    public Task Nothing_to_resume_from_is_said_with_the_file() => RefusesAsync(
        1, $"server shard 0: there is no checkpoint {directory}/none/shard-0.ckpt to resume from: give the directory of an earlier run, or start without --resume",
        "train", "digits", "--strategy", "parameter-server", "--checkpoint-dir", Path.Combine(directory, "none"), "--resume", "--run-dir", directory);

    [Fact]
    public async Task A_gradient_that_is_not_a_number_ends_the_job_naming_its_worker()
    {
        await using var job = SkeinProcess.Start(
            "train", "digits", "--strategy", "parameter-server", "--workers", "2", "--learning-rate", "1e30", "--run-dir", directory);
        Assert.Equal(1, await job.ExitAsync());
        Assert.Matches(
            ByAnyRank("worker [01] pushed gradients with NaN or infinity at clock [1-9]; nothing of the push was applied: lower the learning rate, or look at that worker's data"),
            Assert.Single(job.Errors));
        Assert.Empty(job.Descendants);
    }

    [Fact]
    public async Task The_placement_names_every_slice()
    {
        var (code, output, errors) = await SkeinProcess.RunAsync("parameter-server", "placement", "fashion-mnist", "--servers", "3");
        Assert.Equal(0, code);
        Assert.Empty(errors);
        Assert.Equal("server 0: 67,232 elements (32.5 %)", output[0]);
        Assert.Equal(3, output.Count(line => line.StartsWith("server ", StringComparison.Ordinal)));
        Assert.Equal(
            ["  7.weight         66,902 from 0", "  7.weight         66,901 from 66,902", "  7.weight         66,901 from 133,803"],
            output.Where(line => line.StartsWith("  7.weight ", StringComparison.Ordinal)));
        Assert.DoesNotContain("", output);
    }

    // Every rank finds the error by itself, or hears it from the other; the launcher names the first one, when that ended
    // before rank 0 could speak.
    private static string ByAnyRank(string message) => $"^skein: (rank 1 exited with code 1: )?(worker [01]: )?{message}(; its output is in .*)?$";

    private static async Task RefusesAsync(int expected, string message, params string[] arguments)
    {
        await using var process = SkeinProcess.Start(arguments);
        Assert.Equal(expected, await process.ExitAsync());
        Assert.Empty(process.Output);
        Assert.Equal($"skein: {message}", Assert.Single(process.Errors));
        Assert.Empty(process.Descendants);
    }
}

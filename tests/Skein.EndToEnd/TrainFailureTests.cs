using System.Net;
using Skein.Collectives.Rendezvous;

namespace Skein.EndToEnd;

/// <summary>What goes wrong while training ends in an error on every side, and leaves nothing behind.</summary>
public sealed class TrainFailureTests : IDisposable
{
    private static readonly TimeSpan Prompt = TimeSpan.FromSeconds(10);

    private readonly string directory = Directory.CreateTempSubdirectory("skein-failure-").FullName;

    public void Dispose() => Directory.Delete(directory, recursive: true);

    [Theory]
    [InlineData("skein: unknown workload 'mnist'; choose one of: digits, fashion-mnist", "mnist")]
    [InlineData("skein: unknown strategy 'magic'", "digits", "--strategy", "magic")]
    [InlineData("skein: unknown model of digits 'vast'", "digits", "--model", "vast")]
    [InlineData("skein: unknown optimizer 'best'", "digits", "--optimizer", "best")]
    [InlineData("skein: unknown transport 'pigeon'", "digits", "--transport", "pigeon")]
    [InlineData("skein: unknown algorithm 'star'", "digits", "--algorithm", "star")]
    [InlineData("skein: a batch of 32 does not divide by 3 workers", "digits", "--workers", "3", "--batch-size", "32")]
    [InlineData("skein: --epochs is 0", "digits", "--epochs", "0")]
    [InlineData("skein: --learning-rate is -1", "digits", "--learning-rate", "-1")]
    public async Task What_does_not_fit_is_one_line_and_code_2(string message, params string[] arguments)
    {
        var (code, output, errors) = await SkeinProcess.RunAsync(["train", .. arguments]);
        Assert.Equal(2, code);
        Assert.Empty(output);
        Assert.StartsWith(message, Assert.Single(errors), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    public async Task Missing_data_is_one_line_and_code_1(int workers)
    {
        await using var job = SkeinProcess.Start(
            [("SKEIN_DATA_DIR", directory)],
            "train", "fashion-mnist", "--workers", $"{workers}", "--run-dir", Path.Combine(directory, "run"));
        Assert.Equal(1, await job.ExitAsync());
        Assert.StartsWith("skein: ", Assert.Single(job.Errors), StringComparison.Ordinal);
        Assert.Contains(directory, job.Errors[0], StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(0, "shm")]
    [InlineData(1, "shm")]
    [InlineData(1, "tcp")]
    public async Task A_killed_rank_ends_all_with_an_error_that_names_it(int rank, string transport)
    {
        var sharedBefore = Directory.GetFiles("/dev/shm", "*skein*");
        await using var job = await EndlessAsync("--workers", "3", "--transport", transport);
        SkeinProcess.Signal(job.Worker(rank), SkeinProcess.Kill);
        Assert.Equal(1, await job.ExitAsync(Prompt));
        Assert.Contains(job.Errors, line => line.StartsWith($"skein: rank {rank} was ended by signal 9 (SIGKILL)", StringComparison.Ordinal));
        foreach (var survivor in Enumerable.Range(0, 3).Where(other => other != rank))
        {
            var log = await File.ReadAllLinesAsync(Path.Combine(directory, "run", $"rank-{survivor}.log"));
            Assert.Contains(log, line => line.StartsWith("skein: ", StringComparison.Ordinal) && line.Contains($"rank {rank}", StringComparison.Ordinal));
        }

        Assert.Empty(job.Descendants);
        Assert.Equal(sharedBefore, Directory.GetFiles("/dev/shm", "*skein*"));
    }

    [Theory]
    [InlineData(SkeinProcess.Interrupt, "signal 2 (SIGINT)")]
    [InlineData(SkeinProcess.Terminate, "signal 15 (SIGTERM)")]
    public async Task A_signal_to_one_rank_ends_the_job_with_a_line_that_names_it(int signal, string name)
    {
        await using var job = await EndlessAsync("--workers", "2");
        SkeinProcess.Signal(job.Worker(1), signal);
        Assert.Equal(1, await job.ExitAsync(Prompt));
        Assert.Contains(job.Errors, line => line.StartsWith($"skein: rank 1 was ended by {name}", StringComparison.Ordinal));
    }

    [Theory]
    [InlineData(0)]
    [InlineData(2)]
    public async Task A_frozen_rank_is_named_by_those_too_that_wait_for_others(int frozen)
    {
        const int Stop = 19;
        var run = Path.Combine(directory, "run");
        await using var job = SkeinProcess.Start(
            [("SKEIN_TIMEOUT_SECONDS", "5")],
            "train", "digits", "--strategy", "gossip", "--workers", "4", "--batch-size", "48", "--epochs", "1000000", "--run-dir", run);
        await TrainingResult.FirstStepAsync(run);
        SkeinProcess.Signal(job.Worker(frozen), Stop);
        Assert.Equal(1, await job.ExitAsync(TimeSpan.FromSeconds(40)));
        Assert.Contains(job.Errors, line => line.Contains($"rank {frozen} does not answer: it is frozen, or its host is lost", StringComparison.Ordinal));
        Assert.DoesNotContain(job.Errors, line => line.Contains($"rank {(frozen + 1) % 4} does not answer", StringComparison.Ordinal));
    }

    [Fact]
    public async Task Ranks_with_different_models_each_name_both_and_end()
    {
        Assert.SkipUnless(Directory.Exists("/usr/share/datasets/fashion-mnist"), "needs Debian's package dataset-fashion-mnist");
        var sharedBefore = Directory.GetFiles("/dev/shm", "*skein*");
        var secret = JobSecret.Generate();
        await using var store = TcpStoreServer.Start(new IPEndPoint(IPAddress.Loopback, 0), secret);
        await using var first = Rank(0, "mlp");
        await using var second = Rank(1, "cnn");
        foreach (var rank in new[] { first, second })
        {
            Assert.Equal(1, await rank.ExitAsync());
            Assert.Equal(
                "skein: the ranks hold different models: tensor 0 is '1.weight' Float32[512, 784] on rank 0, " +
                "but '0.weight' Float32[16, 1, 3, 3] on rank 1; build the same model on every rank",
                Assert.Single(rank.Errors));
            Assert.Empty(rank.Descendants);
        }

        Assert.Equal(sharedBefore, Directory.GetFiles("/dev/shm", "*skein*"));

        SkeinProcess Rank(int rank, string model) => SkeinProcess.Start(
            [
                ("RANK", $"{rank}"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", $"{store.Endpoint.Port}"),
                ("SKEIN_LAUNCHER_STORE", "1"), ("SKEIN_JOB_SECRET", secret.ToHex()), ("SKEIN_TRANSPORT", "shm"),
            ],
            "train", "fashion-mnist", "--model", model, "--run-dir", Path.Combine(directory, model));
    }

    [Theory]
    [InlineData(1, SkeinProcess.Interrupt)]
    [InlineData(1, SkeinProcess.Terminate)]
    [InlineData(2, SkeinProcess.Interrupt)]
    [InlineData(2, SkeinProcess.Terminate)]
    public async Task An_interrupted_training_ends_with_130(int workers, int signal)
    {
        await using var job = await EndlessAsync("--workers", $"{workers}");
        job.Signal(signal);
        Assert.Equal(130, await job.ExitAsync(Prompt));
        Assert.Empty(job.Descendants);
    }

    [Fact]
    public async Task A_killed_launcher_takes_its_workers_along()
    {
        await using var job = await EndlessAsync("--workers", "2");
        job.Signal(SkeinProcess.Kill);
        await job.ExitAsync(Prompt);
        await job.NothingLeftAsync(Prompt);
    }

    [Fact]
    public async Task A_rank_without_the_secret_is_told_so()
    {
        await using var rank = SkeinProcess.Start(
            [("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1"), ("SKEIN_TIMEOUT_SECONDS", "5")],
            "train", "digits", "--run-dir", directory);
        Assert.Equal(1, await rank.ExitAsync());
        Assert.Contains("SKEIN_JOB_SECRET", Assert.Single(rank.Errors), StringComparison.Ordinal);
    }

    private async Task<SkeinProcess> EndlessAsync(params string[] options)
    {
        var run = Path.Combine(directory, "run");
        var job = SkeinProcess.Start(["train", "digits", "--batch-size", "48", "--epochs", "1000000", "--run-dir", run, .. options]);
        await TrainingResult.FirstStepAsync(run);
        return job;
    }
}

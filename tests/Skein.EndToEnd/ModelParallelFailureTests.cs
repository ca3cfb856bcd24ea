namespace Skein.EndToEnd;

/// <summary>Workers that hold a part of the model each and are lost, interrupted or fail: all others end at once, saying who it was.</summary>
public sealed class ModelParallelFailureTests : IDisposable
{
    private const string Language = "language-model --context 8 --batch-size 12";
    private const string Digits = "digits --batch-size 48";

    private static readonly TimeSpan Prompt = TimeSpan.FromSeconds(10);

    private readonly string directory = Directory.CreateTempSubdirectory("skein-model-parallel-failure-").FullName;

    private string Run => Path.Combine(directory, "run");

    public void Dispose() => Directory.Delete(directory, recursive: true);

    [Theory]
    [InlineData(0, 2, $"{Digits} --strategy sharded")]
    [InlineData(1, 3, $"{Language} --strategy pipeline --schedule zero-bubble")]
    [InlineData(1, 2, $"{Digits} --strategy tensor --transport tcp")]
    [InlineData(3, 4, $"{Language} --strategy mesh --mesh dp=2,pp=2")]
    [InlineData(2, 4, $"{Digits} --strategy mesh --mesh dp=2,tp=2 --zero 3")]
    public async Task A_killed_rank_ends_all_with_an_error_that_names_it(int rank, int workers, string arguments)
    {
        string[] sharedBefore = Directory.GetFiles("/dev/shm", "*skein*");
        await using SkeinProcess job = await EndlessAsync($"{arguments} --workers {workers}");
        SkeinProcess.Signal(job.Worker(rank), SkeinProcess.Kill);
        Assert.Equal(1, await job.ExitAsync(Prompt));
        Assert.Contains(job.Errors, line => line.StartsWith($"skein: rank {rank} was ended by signal 9 (SIGKILL)", StringComparison.Ordinal));
        AssertOthersSay($"rank {rank} was lost", rank, workers);
        Assert.Empty(job.Descendants);
        Assert.Equal(sharedBefore, Directory.GetFiles("/dev/shm", "*skein*"));
    }

    [Theory]
    [InlineData(SkeinProcess.Terminate, $"{Digits} --workers 2 --strategy tensor")]
    [InlineData(SkeinProcess.Interrupt, $"{Language} --workers 2 --strategy pipeline")]
    [InlineData(SkeinProcess.Interrupt, $"{Digits} --workers 4 --strategy mesh --mesh dp=2,tp=2 --zero 3")]
    public async Task An_interrupted_training_ends_with_130(int signal, string arguments)
    {
        await using SkeinProcess job = await EndlessAsync(arguments);
        job.Signal(signal);
        Assert.Equal(130, await job.ExitAsync(Prompt));
        Assert.DoesNotContain(job.Errors, static line => line.StartsWith("skein:", StringComparison.Ordinal));
        Assert.Empty(job.Descendants);
    }

    // Rank 0 has the first stage, and cannot write down what its first step was like.
    [Theory]
    [InlineData(3, $"{Language} --strategy pipeline")]
    [InlineData(2, $"{Digits} --strategy sharded")]
    public async Task A_stage_that_fails_half_way_ends_all_with_an_error_that_names_it(int workers, string arguments)
    {
        Directory.CreateDirectory(Run);
        string metrics = Path.Combine(Run, "metrics.jsonl");
        File.CreateSymbolicLink(metrics, "/dev/full");
        await using SkeinProcess job = Start($"{arguments} --workers {workers}");
        Assert.Equal(1, await job.ExitAsync());
        Assert.Contains($"skein: No space left on device : '{metrics}'", job.Errors);
        AssertOthersSay("rank 0 left the job", 0, workers);
        Assert.Empty(job.Descendants);
    }

    private void AssertOthersSay(string message, int culprit, int workers)
    {
        foreach (int rank in Enumerable.Range(0, workers).Where(rank => rank != culprit))
        {
            Assert.StartsWith(
                $"skein: {message}",
                Assert.Single(File.ReadLines(Path.Combine(Run, $"rank-{rank}.log")), static line => line.StartsWith("skein: ", StringComparison.Ordinal)),
                StringComparison.Ordinal);
        }
    }

    private SkeinProcess Start(string arguments) => SkeinProcess.Start(["train", .. arguments.Split(' '), "--epochs", "1000000", "--run-dir", Run]);

    private async Task<SkeinProcess> EndlessAsync(string arguments)
    {
        SkeinProcess job = Start(arguments);
        await TrainingResult.FirstStepAsync(Run);
        return job;
    }
}

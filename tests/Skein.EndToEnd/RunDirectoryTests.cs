namespace Skein.EndToEnd;

/// <summary>A run directory is one job's at a time, and holds what that job has left.</summary>
public sealed class RunDirectoryTests : IDisposable
{
    private static readonly string[] OneStep = ["train", "digits", "--batch-size", "48", "--max-steps", "1"];

    private static readonly string[] Results = ["config.json", "summary.json", "metrics.jsonl", "model.safetensors"];

    private readonly string run = Directory.CreateTempSubdirectory("skein-run-").FullName;

    public void Dispose() => Directory.Delete(run, recursive: true);

    [Theory]
    [InlineData("1")]
    [InlineData("2")]
    public async Task What_an_earlier_run_has_left_is_gone_when_the_next_begins(string workers)
    {
        foreach (string name in Results.Append("rank-7.log")) await File.WriteAllTextAsync(Path.Combine(run, name), "old");
        await File.WriteAllTextAsync(Path.Combine(run, "notes.txt"), "the user's");
        (int code, _, string[] errors) = await SkeinProcess.RunAsync([.. OneStep, "--workers", workers, "--run-dir", run]);
        Assert.True(code == 0, string.Join('\n', errors));
        Assert.False(File.Exists(Path.Combine(run, "model.safetensors")));
        foreach (string name in Results[..3]) Assert.DoesNotContain("old", await File.ReadAllTextAsync(Path.Combine(run, name)), StringComparison.Ordinal);
        Assert.Equal(workers == "1", File.Exists(Path.Combine(run, "rank-7.log")));
        Assert.Equal("the user's", await File.ReadAllTextAsync(Path.Combine(run, "notes.txt")));
    }

    [Theory]
    [InlineData("1")]
    [InlineData("2")]
    public async Task A_run_directory_is_one_jobs_until_that_is_dead(string workers)
    {
        await using SkeinProcess first = SkeinProcess.Start(
            "train", "digits", "--batch-size", "48", "--epochs", "1000000", "--workers", workers, "--run-dir", run);
        await TrainingResult.FirstStepAsync(run);
        (int code, _, string[] errors) = await SkeinProcess.RunAsync([.. OneStep, "--run-dir", run]);
        Assert.Equal(1, code);
        string expected = $"skein: the run directory {run} is in use by a job that still runs: give another --run-dir";
        Assert.StartsWith(expected, Assert.Single(errors), StringComparison.Ordinal);

        first.Signal(SkeinProcess.Kill);
        await first.ExitAsync();
        await first.NothingLeftAsync(TimeSpan.FromSeconds(30));
        (code, _, errors) = await SkeinProcess.RunAsync([.. OneStep, "--run-dir", run]);
        Assert.True(code == 0, string.Join('\n', errors));
    }
}

namespace Skein.Hosting.Tests;

public sealed class RunDirectoryLockTests : IDisposable
{
    private readonly string directory = Directory.CreateTempSubdirectory("skein-lock-").FullName;

    public void Dispose() => Directory.Delete(directory, recursive: true);

    [Fact]
    public async Task Of_many_that_make_a_folder_at_once_one_has_made_it()
    {
        for (int round = 0; round < 50; round++)
        {
            string path = Path.Combine(directory, $"{round}");
            using var start = new Barrier(8);
            bool[] made = await Task.WhenAll(Enumerable.Range(0, 8).Select(_ => Task.Factory.StartNew(
                () =>
                {
                    start.SignalAndWait();
                    return RunDirectoryLock.TryMake(path);
                },
                TaskCreationOptions.LongRunning)));
            Assert.Single(made, static one => one);
        }
    }

    [Fact]
    public void A_folder_that_is_taken_is_refused_until_it_is_given_back()
    {
        string path = Path.Combine(directory, "run");
        using (RunDirectoryLock.Take(path))
        {
            Assert.Contains("in use by a job that still runs", Refused(path), StringComparison.Ordinal);
        }

        RunDirectoryLock.Take(path).Dispose();
        File.WriteAllText(Path.Combine(directory, "file"), "");
        Assert.Contains("cannot be written to", Refused(Path.Combine(directory, "file", "run")), StringComparison.Ordinal);
    }

    private static string Refused(string path) => Assert.Throws<LaunchException>(() => RunDirectoryLock.Take(path)).Message;
}

namespace Skein.Hosting;

/// <summary>
/// Keeps a run directory for one job. The system lets go of the lock when its process ends, however that ends; the empty file
/// that remains means nothing.
/// </summary>
public sealed class RunDirectoryLock : IDisposable
{
    private const string FileName = "run.lock";

    private readonly FileStream file;

    private RunDirectoryLock(FileStream file) => this.file = file;

    /// <summary>Makes the folder if there is none, and takes it.</summary>
    /// <exception cref="LaunchException">A job that still runs has it, or it cannot be written to.</exception>
    public static RunDirectoryLock Take(string directory)
    {
        ArgumentException.ThrowIfNullOrEmpty(directory);
        try
        {
            Directory.CreateDirectory(directory);
            string path = Path.Combine(directory, FileName);
            return new RunDirectoryLock(new FileStream(path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None));
        }
        catch (IOException) when (File.Exists(Path.Combine(directory, FileName)))
        {
            throw new LaunchException(
                $"the run directory {directory} is in use by a job that still runs: give another --run-dir, or wait for its end");
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            throw new LaunchException($"the run directory {directory} cannot be written to ({error.Message}): give another --run-dir");
        }
    }

    /// <summary>Makes a folder that is nobody else's.</summary>
    /// <returns>False when another process has made it first.</returns>
    public static bool TryMake(string directory)
    {
        ArgumentException.ThrowIfNullOrEmpty(directory);
        try
        {
            Directory.CreateDirectory(directory);
            new FileStream(Path.Combine(directory, FileName), FileMode.CreateNew).Dispose();
            return true;
        }
        catch (IOException) when (File.Exists(Path.Combine(directory, FileName)))
        {
            return false;
        }
    }

    /// <summary>Whether the launcher that started this process keeps that folder, for all its workers.</summary>
    public static bool IsKeptByLauncher(string directory) =>
        Environment.GetEnvironmentVariable(Sweeper.Mark) is not null
        && Environment.GetEnvironmentVariable("SKEIN_RUN_DIR") == Path.GetFullPath(directory);

    /// <summary>Deletes what the launcher of an earlier job has left: it may have had more ranks.</summary>
    internal void Clear()
    {
        string directory = Path.GetDirectoryName(file.Name)!;
        foreach (string pattern in (string[])["rank-*.log", "server-*.log"])
        {
            foreach (string log in Directory.EnumerateFiles(directory, pattern)) File.Delete(log);
        }
    }

    /// <inheritdoc/>
    public void Dispose() => file.Dispose();
}

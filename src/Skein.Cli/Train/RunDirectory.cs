using System.Globalization;
using System.Text.Json;
using Skein.Hosting;

namespace Skein.Cli.Train;

/// <summary>The files of a run. Only rank 0 has one; not thread-safe.</summary>
internal sealed class RunDirectory : IDisposable
{
    // What an earlier run has left would be taken for this one's: its weights under another configuration.
    private static readonly string[] Results = ["config.json", "summary.json", LanguageUsage.ModelFile];

    private readonly RunDirectoryLock? held;
    private readonly StreamWriter metrics;

    private RunDirectory(string path, RunDirectoryLock? held)
    {
        Path = path;
        this.held = held;
        foreach (string name in Results) File.Delete(System.IO.Path.Combine(path, name));
        metrics = new StreamWriter(System.IO.Path.Combine(path, "metrics.jsonl")) { AutoFlush = true };
    }

    /// <summary>Absolute path.</summary>
    public string Path { get; }

    /// <summary>
    /// Creates the folder that was asked for, that the launching process chose, or a new one under <c>runs</c>, without what a run
    /// before has left there. It is this job's alone until its end.
    /// </summary>
    /// <exception cref="LaunchException">Another job is using it.</exception>
    public static RunDirectory Create(string? requested, string workload)
    {
        string? chosen = requested ?? Environment.GetEnvironmentVariable("SKEIN_RUN_DIR");
        string path = System.IO.Path.GetFullPath(string.IsNullOrEmpty(chosen) ? NewPath(workload) : chosen);
        return new RunDirectory(path, RunDirectoryLock.IsKeptByLauncher(path) ? null : RunDirectoryLock.Take(path));
    }

    /// <summary>Makes the folder of a run for which nobody chose one: no other job's, even one that starts at the same moment.</summary>
    public static string NewPath(string workload)
    {
        string time = DateTime.Now.ToString("yyyyMMdd-HHmmss", CultureInfo.InvariantCulture);
        for (int again = 1; ; again++)
        {
            string path = System.IO.Path.Combine("runs", again == 1 ? $"{workload}-{time}" : $"{workload}-{time}-{again}");
            if (!Directory.Exists(path) && RunDirectoryLock.TryMake(path)) return path;
        }
    }

    /// <summary>Adds a line to <c>metrics.jsonl</c>.</summary>
    public void AddMetrics<T>(T line) => metrics.WriteLine(JsonSerializer.Serialize(line, TrainSummary.Json));

    /// <summary>Writes a file of one JSON object; after a crash it is whole or absent.</summary>
    public void Write<T>(string name, T content)
    {
        string path = System.IO.Path.Combine(Path, name);
        using (var file = new FileStream($"{path}.tmp", FileMode.Create))
        {
            JsonSerializer.Serialize(file, content, TrainSummary.Json);
            file.WriteByte((byte)'\n');
            file.Flush(flushToDisk: true);
        }

        File.Move($"{path}.tmp", path, overwrite: true);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        metrics.Dispose();
        held?.Dispose();
    }
}

using System.Globalization;
using System.Text.Json;

namespace Skein.Cli.Train;

/// <summary>The files of a run. Only rank 0 has one; not thread-safe.</summary>
internal sealed class RunDirectory : IDisposable
{
    private readonly StreamWriter metrics;

    private RunDirectory(string path)
    {
        Path = path;
        metrics = new StreamWriter(System.IO.Path.Combine(path, "metrics.jsonl")) { AutoFlush = true };
    }

    /// <summary>Absolute path.</summary>
    public string Path { get; }

    /// <summary>Creates the folder that was asked for, that the launching process chose, or a new one under <c>runs</c>.</summary>
    public static RunDirectory Create(string? requested, string workload)
    {
        string? chosen = requested ?? Environment.GetEnvironmentVariable("SKEIN_RUN_DIR");
        string path = string.IsNullOrEmpty(chosen) ? NewPath(workload) : chosen;
        return new RunDirectory(Directory.CreateDirectory(path).FullName);
    }

    /// <summary>Where a run goes whose folder nobody chose: one that does not exist yet.</summary>
    public static string NewPath(string workload)
    {
        string time = DateTime.Now.ToString("yyyyMMdd-HHmmss", CultureInfo.InvariantCulture);
        string path = System.IO.Path.Combine("runs", $"{workload}-{time}");
        for (int again = 2; Directory.Exists(path); again++) path = System.IO.Path.Combine("runs", $"{workload}-{time}-{again}");
        return path;
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
    public void Dispose() => metrics.Dispose();
}

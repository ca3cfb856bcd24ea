using System.Diagnostics;
using System.Globalization;
using System.Security.Cryptography;
using System.Text.Json;

namespace Skein.Collectives;

/// <summary>
/// Remembers the last 1,000 collectives of a group on this rank: what was called, when it began and ended, and
/// whether it is still going on. Recording takes two time stamps a call; a dump shows at which call a job got stuck.
/// </summary>
internal sealed class FlightRecorder(string group)
{
    public const int Capacity = 1000;

    private static readonly long StartTicks = Stopwatch.GetTimestamp();
    private static readonly DateTimeOffset StartTime = DateTimeOffset.UtcNow;

    private readonly Entry[] entries = new Entry[Capacity];
    private long count;

    public void Begin(in CallSignature signature)
    {
        ref Entry entry = ref entries[count % Capacity];
        entry.Signature = signature;
        entry.Began = Stopwatch.GetTimestamp();
        entry.Ended = 0;
        entry.Failed = false;
        count++;
    }

    public void End(bool failed)
    {
        ref Entry entry = ref entries[(count - 1) % Capacity];
        entry.Ended = Stopwatch.GetTimestamp();
        entry.Failed = failed;
    }

    /// <summary>
    /// The file that a rank's recorders are written to. In the temporary folder, which others may write to, nobody can know
    /// its name beforehand.
    /// </summary>
    public static string PathOf(string? directory, int rank) => directory is null
        ? Path.Combine(Path.GetTempPath(), $"skein-flight-recorder-rank-{rank}-{RandomName()}.json")
        : Path.Combine(directory, $"flight-recorder-rank-{rank}.json");

    /// <summary>Writes the recorders of a rank to a file that only this user reads. Replaces what has its name, and follows no link.</summary>
    /// <exception cref="IOException">The file cannot be written.</exception>
    /// <exception cref="UnauthorizedAccessException">The folder belongs to somebody else.</exception>
    public static void Write(FlightRecorder[] recorders, string path)
    {
        Directory.CreateDirectory(Path.GetDirectoryName(Path.GetFullPath(path))!);
        string unfinished = $"{path}.{RandomName()}.tmp";
        var options = new FileStreamOptions { Mode = FileMode.CreateNew, Access = FileAccess.Write };
        if (!OperatingSystem.IsWindows()) options.UnixCreateMode = UnixFileMode.UserRead | UnixFileMode.UserWrite;
        try
        {
            using (var stream = new FileStream(unfinished, options))
            using (var json = new Utf8JsonWriter(stream, new JsonWriterOptions { Indented = true }))
            {
                json.WriteStartArray();
                foreach (FlightRecorder recorder in recorders) recorder.Write(json);
                json.WriteEndArray();
            }

            File.Move(unfinished, path, overwrite: true);
        }
        catch (IOException)
        {
            File.Delete(unfinished);
            throw;
        }
    }

    /// <summary>Writes the entries, oldest first. May run while calls go on: the newest entry is then a snapshot.</summary>
    public void Write(Utf8JsonWriter json)
    {
        json.WriteStartObject();
        json.WriteString("group", group);
        json.WriteNumber("calls", count);
        json.WriteStartArray("entries");
        for (long index = Math.Max(0, count - Capacity); index < count; index++)
        {
            Entry entry = entries[index % Capacity];
            json.WriteStartObject();
            json.WriteNumber("sequence", entry.Signature.Sequence);
            json.WriteString("call", entry.Signature.ToString());
            json.WriteString("began", At(entry.Began));
            if (entry.Ended == 0) json.WriteNull("seconds");
            else json.WriteNumber("seconds", (entry.Ended - entry.Began) / (double)Stopwatch.Frequency);
            json.WriteString("state", entry.Ended == 0 ? "running" : entry.Failed ? "failed" : "done");
            json.WriteEndObject();
        }

        json.WriteEndArray();
        json.WriteEndObject();
    }

    private static string RandomName() => Convert.ToHexStringLower(RandomNumberGenerator.GetBytes(8));

    private static string At(long ticks) =>
        (StartTime + TimeSpan.FromSeconds((ticks - StartTicks) / (double)Stopwatch.Frequency))
        .ToString("O", CultureInfo.InvariantCulture);

    private struct Entry
    {
        public CallSignature Signature;
        public long Began, Ended;
        public bool Failed;
    }
}

using System.Diagnostics;
using System.Globalization;
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

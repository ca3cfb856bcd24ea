using System.Text.Json;

namespace Skein.Collectives;

/// <summary>
/// Which algorithm <c>auto</c> takes for an all-reduce of a given size. Rank 0's table counts for all ranks, and it
/// changes only when somebody calibrates (<c>skein bench --calibrate</c>): a table measured at every start would let
/// the same command give different roundings from run to run.
/// </summary>
public sealed class AlgorithmTable
{
    private readonly (long UpToBytes, AllReduceAlgorithm Algorithm)[] rows;

    private AlgorithmTable(IEnumerable<(long UpToBytes, AllReduceAlgorithm Algorithm)> rows) =>
        this.rows = [.. rows.OrderBy(row => row.UpToBytes)];

    /// <summary>Where calibrated tables are kept: one file per user.</summary>
    public static string Path => System.IO.Path.Combine(
        Environment.GetEnvironmentVariable("XDG_CACHE_HOME") is { Length: > 0 } cache
            ? cache
            : System.IO.Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), ".cache"),
        "skein",
        "algorithms.json");

    /// <summary>The algorithm for a buffer of <paramref name="bytes"/> per rank.</summary>
    public AllReduceAlgorithm Choose(long bytes)
    {
        foreach ((long upTo, AllReduceAlgorithm algorithm) in rows)
        {
            if (bytes <= upTo) return algorithm;
        }

        return rows[^1].Algorithm;
    }

    /// <summary>The table for ranks that were never calibrated.</summary>
    internal static AlgorithmTable Default(bool sharedMemory, bool severalRanksOnSeveralHosts) =>
        sharedMemory ? new([(long.MaxValue, AllReduceAlgorithm.Direct)])
        : severalRanksOnSeveralHosts ? new([(16 << 10, AllReduceAlgorithm.HalvingDoubling), (long.MaxValue, AllReduceAlgorithm.Hierarchical)])
        : new([(64 << 10, AllReduceAlgorithm.HalvingDoubling), (long.MaxValue, AllReduceAlgorithm.Ring)]);

    /// <summary>The row that calibration has written for this transport and world size, or null.</summary>
    internal static string? ReadCalibrated(string transport, int worldSize)
    {
        try
        {
            if (!File.Exists(Path)) return null;
            using JsonDocument file = JsonDocument.Parse(File.ReadAllText(Path));
            return file.RootElement.TryGetProperty(Key(transport, worldSize), out JsonElement row) ? row.GetString() : null;
        }
        catch (Exception error) when (error is IOException or JsonException or UnauthorizedAccessException)
        {
            throw new RendezvousException($"{Path} cannot be read ({error.Message}); delete it, or calibrate again", error);
        }
    }

    /// <summary>Reads a row such as <c>65536:halving-doubling max:ring</c>.</summary>
    internal static AlgorithmTable Parse(string row)
    {
        try
        {
            return new AlgorithmTable(row.Split(' ').Select(cell => cell.Split(':')).Select(cell => (
                cell[0] == "max" ? long.MaxValue : long.Parse(cell[0]), OptionNames.ParseAlgorithm(cell[1]))));
        }
        catch (Exception error) when (error is FormatException or IndexOutOfRangeException or OverflowException)
        {
            throw new RendezvousException($"{Path} holds '{row}', which is no table of algorithms; delete it, or calibrate again", error);
        }
    }

    /// <summary>Keeps the fastest algorithm per size as the table for this transport and world size.</summary>
    /// <param name="transport">The transport's name.</param>
    /// <param name="worldSize">The number of ranks.</param>
    /// <param name="fastest">Sizes in bytes per rank, ascending, and the algorithm that was fastest there.</param>
    public static void Save(string transport, int worldSize, IReadOnlyList<(long Bytes, AllReduceAlgorithm Algorithm)> fastest)
    {
        ArgumentNullException.ThrowIfNull(fastest);
        ArgumentOutOfRangeException.ThrowIfZero(fastest.Count);
        var cells = new List<string>();
        for (int i = 0; i < fastest.Count; i++)
        {
            bool last = i == fastest.Count - 1;
            if (!last && fastest[i + 1].Algorithm == fastest[i].Algorithm) continue;
            // Between two measured sizes the change-over is put at their geometric middle.
            string upTo = last ? "max" : ((long)Math.Sqrt((double)fastest[i].Bytes * fastest[i + 1].Bytes)).ToString();
            cells.Add($"{upTo}:{OptionNames.Of(fastest[i].Algorithm)}");
        }

        var tables = new SortedDictionary<string, string>(StringComparer.Ordinal);
        if (File.Exists(Path))
        {
            foreach (JsonProperty row in JsonDocument.Parse(File.ReadAllText(Path)).RootElement.EnumerateObject())
            {
                tables[row.Name] = row.Value.GetString()!;
            }
        }

        tables[Key(transport, worldSize)] = string.Join(' ', cells);
        Directory.CreateDirectory(System.IO.Path.GetDirectoryName(Path)!);
        string temporary = $"{Path}.{Environment.ProcessId}.tmp";
        using (var stream = new FileStream(temporary, FileMode.Create))
        {
            using var json = new Utf8JsonWriter(stream, new JsonWriterOptions { Indented = true });
            json.WriteStartObject();
            foreach ((string key, string row) in tables) json.WriteString(key, row);
            json.WriteEndObject();
            json.Flush();
            stream.Flush(flushToDisk: true);
        }

        File.Move(temporary, Path, overwrite: true);
    }

    private static string Key(string transport, int worldSize) => $"{transport}/{worldSize}";
}

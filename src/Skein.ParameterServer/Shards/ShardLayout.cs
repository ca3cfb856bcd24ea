using System.Text.Json;

namespace Skein.ParameterServer.Shards;

/// <summary>What one shard holds: slices of dense parameters, one behind the other in memory, and its part of each table.</summary>
internal sealed record ShardLayout(IReadOnlyList<ParameterSlice> Slices, IReadOnlyList<TableSpec> Tables)
{
    /// <summary>The number of dense values.</summary>
    public long DenseLength { get; } = Slices?.Sum(static slice => (long)(slice?.Length ?? 0)) ?? 0;

    public long DenseBytes => DenseLength * sizeof(float);

    public byte[] ToBytes() => JsonSerializer.SerializeToUtf8Bytes(this);

    /// <exception cref="InvalidDataException">It is not a layout.</exception>
    public static ShardLayout Parse(ReadOnlySpan<byte> bytes)
    {
        try
        {
            ShardLayout? layout = JsonSerializer.Deserialize<ShardLayout>(bytes);
            if (layout is not { Slices: not null, Tables: not null }
                || layout.Slices.Any(static slice => slice is not { Parameter: not null, Length: >= 0, Start: >= 0 })
                || layout.Tables.Any(static table => table is not { Name: not null }))
            {
                throw new InvalidDataException("a layout without slices or tables, or with one that has no name or a negative length");
            }

            return layout;
        }
        catch (Exception error) when (error is JsonException or NotSupportedException or ArgumentException)
        {
            // A table checks its own numbers.
            throw new InvalidDataException(
                error is ArgumentException ? $"a layout that no model has: {error.Message}" : "a layout that is not JSON", error);
        }
    }

    /// <summary>How <paramref name="asked"/> differs from this layout, in words; null when it does not.</summary>
    public string? Difference(ShardLayout asked)
    {
        foreach (ParameterSlice slice in asked.Slices)
        {
            ParameterSlice? known = Slices.FirstOrDefault(held => held.Parameter == slice.Parameter && held.Start == slice.Start);
            if (known is null) return $"parameter '{slice.Parameter}' from element {slice.Start} is unknown here";
            if (known.Length != slice.Length)
            {
                return $"parameter '{slice.Parameter}' has {slice.Length} elements from {slice.Start} on there, and {known.Length} here";
            }
        }

        foreach (TableSpec table in asked.Tables)
        {
            TableSpec? known = Tables.FirstOrDefault(held => held.Name == table.Name);
            if (known is null) return $"table '{table.Name}' is unknown here";
            if (known != table) return $"table '{table.Name}' is {table} there, and {known} here";
        }

        return asked.Slices.SequenceEqual(Slices) && asked.Tables.SequenceEqual(Tables)
            ? null
            : $"{asked.Slices.Count} slices and {asked.Tables.Count} tables were asked for, in an order of their own, and {Slices.Count} and {Tables.Count} are here";
    }
}

using System.Buffers;
using System.Text.Json;
using TorchSharp;
using static TorchSharp.torch;

namespace Skein.Training.Checkpointing;

/// <summary>A tensor of a file: its values are the bytes from <paramref name="Begin"/> to before <paramref name="End"/> after the header.</summary>
internal sealed record SafeTensor(string Name, ScalarType Type, long[] Shape, long Begin, long End);

/// <summary>The header of <see cref="SafeTensors"/>: a JSON object with each tensor's element type, shape and place.</summary>
internal static class SafeTensorsHeader
{
    /// <summary>As the format's own reader limits it.</summary>
    internal const int Longest = 100_000_000;

    private const string Metadata = "__metadata__";

    private static readonly Dictionary<ScalarType, string> Types = new()
    {
        [ScalarType.Float32] = "F32",
        [ScalarType.Int64] = "I64",
        [ScalarType.Int32] = "I32",
        [ScalarType.Int16] = "I16",
        [ScalarType.Int8] = "I8",
        [ScalarType.Byte] = "U8",
        [ScalarType.Bool] = "BOOL",
    };

    /// <exception cref="ArgumentException">Two tensors have the same name.</exception>
    internal static byte[] Write(IEnumerable<SafeTensor> tensors)
    {
        var buffer = new ArrayBufferWriter<byte>();
        var names = new HashSet<string>();
        using (var json = new Utf8JsonWriter(buffer))
        {
            json.WriteStartObject();
            foreach (SafeTensor tensor in tensors)
            {
                if (tensor.Name == Metadata || !names.Add(tensor.Name)) throw new ArgumentException($"two tensors are called {tensor.Name}, or the format keeps that name");
                json.WriteStartObject(tensor.Name);
                json.WriteString("dtype", Types.GetValueOrDefault(tensor.Type) ?? throw new ArgumentException($"{tensor.Name} is {tensor.Type}, which cannot be written"));
                WriteNumbers(json, "shape", tensor.Shape);
                WriteNumbers(json, "data_offsets", [tensor.Begin, tensor.End]);
                json.WriteEndObject();
            }

            json.WriteEndObject();
        }

        // Values begin at a multiple of eight, so that a mapped file can be read in place.
        int padding = -buffer.WrittenCount & 7;
        buffer.GetSpan(padding)[..padding].Fill((byte)' ');
        buffer.Advance(padding);
        return buffer.WrittenSpan.ToArray();
    }

    /// <summary>The tensors in the order of their values, which fill <paramref name="available"/> bytes without gaps.</summary>
    /// <exception cref="InvalidDataException">Something does not fit.</exception>
    /// <exception cref="JsonException">It is no JSON.</exception>
    internal static IReadOnlyList<SafeTensor> Read(ReadOnlyMemory<byte> header, long available)
    {
        using JsonDocument document = JsonDocument.Parse(header, new JsonDocumentOptions { AllowDuplicateProperties = false });
        if (document.RootElement.ValueKind != JsonValueKind.Object) throw new InvalidDataException("the header is no JSON object");
        SafeTensor[] tensors = [.. document.RootElement.EnumerateObject().Where(static entry => entry.Name != Metadata).Select(Parse).OrderBy(static tensor => tensor.Begin).ThenBy(static tensor => tensor.End)];
        long end = 0;
        foreach (SafeTensor tensor in tensors)
        {
            if (tensor.Begin != end) throw new InvalidDataException($"{tensor.Name} begins at byte {tensor.Begin} instead of {end}");
            end = tensor.End;
        }

        return end == available ? tensors : throw new InvalidDataException($"the tensors take {end} bytes, but {available} are there");
    }

    private static SafeTensor Parse(JsonProperty entry)
    {
        string? type = Member(entry, "dtype", JsonValueKind.String).GetString();
        if (!Types.ContainsValue(type!)) throw new InvalidDataException($"{entry.Name} has elements of type {type}; only {string.Join(", ", Types.Values)} are read");
        ScalarType elements = Types.First(known => known.Value == type).Key;
        long[] shape = Numbers(entry, "shape");
        if (Numbers(entry, "data_offsets") is not [var begin, var end] || end < begin) throw new InvalidDataException($"the place of {entry.Name} is not from one byte to another");
        return end - begin == Bytes(shape, elements) ? new SafeTensor(entry.Name, elements, shape, begin, end) : throw new InvalidDataException($"{entry.Name} of shape [{string.Join(", ", shape)}] does not take {end - begin} bytes");
    }

    // Null when no file is as long.
    private static long? Bytes(long[] shape, ScalarType type)
    {
        Int128 bytes = type.ElementSize();
        // LibTorch multiplies the lengths of an empty tensor too.
        foreach (long length in shape.Where(static length => length > 0))
        {
            bytes *= length;
            if (bytes > long.MaxValue) return null;
        }

        return shape.Contains(0) ? 0 : (long)bytes;
    }

    private static long[] Numbers(JsonProperty entry, string name)
    {
        JsonElement array = Member(entry, name, JsonValueKind.Array);
        return [.. array.EnumerateArray().Select(value => value.ValueKind == JsonValueKind.Number && value.TryGetInt64(out long number) && number >= 0
            ? number
            : throw new InvalidDataException($"{name} of {entry.Name} has {value.GetRawText()}, not a whole number from 0"))];
    }

    private static JsonElement Member(JsonProperty entry, string name, JsonValueKind kind) =>
        entry.Value.ValueKind == JsonValueKind.Object && entry.Value.TryGetProperty(name, out JsonElement member) && member.ValueKind == kind
            ? member
            : throw new InvalidDataException($"{entry.Name} has no {name}");

    private static void WriteNumbers(Utf8JsonWriter json, string name, ReadOnlySpan<long> numbers)
    {
        json.WriteStartArray(name);
        foreach (long number in numbers) json.WriteNumberValue(number);
        json.WriteEndArray();
    }
}

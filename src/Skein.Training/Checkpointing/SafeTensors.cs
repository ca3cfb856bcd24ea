using System.Buffers.Binary;
using System.Text.Json;
using static TorchSharp.torch;

namespace Skein.Training.Checkpointing;

/// <summary>
/// Tensors in a file that other frameworks read as well: the format <c>safetensors</c>, here with values in float32, or, of those that have
/// no fractions, in their own type. Eight bytes with the length of a header, the header in JSON, then the values, all little-endian. One tensor at a time is in memory.
/// </summary>
public static class SafeTensors
{
    /// <summary>
    /// Writes the file; after a crash it is whole or as before. The tensors are enumerated once, and each is done with before the next is
    /// asked for; other floating-point types become float32.
    /// </summary>
    /// <exception cref="ArgumentException">Two have the same name.</exception>
    public static void Write(string path, IEnumerable<(string Name, Tensor Value)> tensors)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        ArgumentNullException.ThrowIfNull(tensors);
        string temporary = $"{path}.{Environment.ProcessId}.tmp";
        // The header comes first in the file, but is known last.
        using FileStream values = new($"{temporary}-values", FileMode.Create, FileAccess.ReadWrite, FileShare.None, 1 << 16, FileOptions.DeleteOnClose);
        byte[] header = SafeTensorsHeader.Write(WriteValues(values, tensors));
        using (var file = new FileStream(temporary, FileMode.Create))
        {
            Span<byte> length = stackalloc byte[sizeof(ulong)];
            BinaryPrimitives.WriteUInt64LittleEndian(length, (ulong)header.Length);
            file.Write(length);
            file.Write(header);
            values.Position = 0;
            values.CopyTo(file, 1 << 20);
            file.Flush(flushToDisk: true);
        }

        File.Move(temporary, path, overwrite: true);
    }

    /// <summary>The tensors of a file in the order of their values, each read when it is asked for, on the CPU. The caller owns them.</summary>
    /// <exception cref="InvalidDataException">The file is damaged, or holds an element type that is not written here; says what.</exception>
    public static IEnumerable<(string Name, Tensor Value)> Read(string path)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        return ReadValues(path);
    }

    /// <summary>
    /// Copies the values of a file into the parameters and buffers of <paramref name="model"/>, whatever their device and element type. A file
    /// without any of the buffers, of <see cref="Strategy.FullParameters"/>, leaves these as they are.
    /// </summary>
    /// <exception cref="InvalidDataException">The file is damaged, or its tensors are not the model's: a name or shape differs.</exception>
    public static void Load(string path, nn.Module model)
    {
        ArgumentNullException.ThrowIfNull(model);
        using var noGradient = no_grad();
        Dictionary<string, Tensor> missing = model.named_parameters().ToDictionary(static entry => entry.name, static entry => (Tensor)entry.parameter);
        Dictionary<string, Tensor> buffers = model.named_buffers().ToDictionary(static entry => entry.name, static entry => entry.buffer);
        int buffersFound = 0;
        foreach ((string name, Tensor value) in Read(path))
        {
            using (value)
            {
                if (buffers.Remove(name, out Tensor? tensor)) buffersFound++;
                else if (!missing.Remove(name, out tensor)) throw new InvalidDataException($"{path} holds {name}, which the model has not");
                if (!tensor.shape.SequenceEqual(value.shape)) throw new InvalidDataException($"{path} holds {name} of shape [{string.Join(", ", value.shape)}], but the model's is [{string.Join(", ", tensor.shape)}]");
                tensor.copy_(value);
            }
        }

        if (buffersFound == 0) buffers.Clear();
        if (missing.Keys.Concat(buffers.Keys).FirstOrDefault() is { } lacking) throw new InvalidDataException($"{path} lacks {lacking}");
    }

    private static IEnumerable<SafeTensor> WriteValues(FileStream values, IEnumerable<(string Name, Tensor Value)> tensors)
    {
        foreach ((string name, Tensor value) in tensors)
        {
            long begin = values.Position;
            ScalarType type = value.is_floating_point() ? ScalarType.Float32 : value.dtype;
            using (var scope = NewDisposeScope())
            {
                // A view has its base's order in memory, and a Parameter its graph.
                values.Write(value.detach().to(type).cpu().contiguous().bytes);
            }

            yield return new SafeTensor(name, type, value.shape, begin, values.Position);
        }
    }

    private static IEnumerable<(string Name, Tensor Value)> ReadValues(string path)
    {
        using FileStream file = File.OpenRead(path);
        (IReadOnlyList<SafeTensor> tensors, long origin) = ReadHeader(file, path);
        foreach (SafeTensor tensor in tensors)
        {
            file.Position = origin + tensor.Begin;
            Tensor value = empty(tensor.Shape, tensor.Type);
            file.ReadExactly(value.bytes);
            yield return (tensor.Name, value);
        }
    }

    private static (IReadOnlyList<SafeTensor> Tensors, long Origin) ReadHeader(FileStream file, string path)
    {
        try
        {
            Span<byte> prefix = stackalloc byte[sizeof(ulong)];
            file.ReadExactly(prefix);
            ulong length = BinaryPrimitives.ReadUInt64LittleEndian(prefix);
            long rest = file.Length - prefix.Length;
            if (length > SafeTensorsHeader.Longest || (long)length > rest) throw new InvalidDataException($"a header of {length} bytes in a file of {file.Length}");
            byte[] header = new byte[length];
            file.ReadExactly(header);
            return (SafeTensorsHeader.Read(header, rest - (long)length), file.Position);
        }
        catch (Exception error) when (error is InvalidDataException or EndOfStreamException or JsonException or InvalidOperationException)
        {
            // The last: text in the header that is no UTF-8.
            throw new InvalidDataException($"{path} is no safetensors file, or damaged: {error.Message}", error);
        }
    }
}

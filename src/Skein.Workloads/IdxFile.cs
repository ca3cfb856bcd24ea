using System.Buffers.Binary;
using System.IO.Compression;
using static TorchSharp.torch;

namespace Skein.Workloads;

/// <summary>
/// The format that MNIST came in: two zero bytes, the element type (8: byte), the number of dimensions, each dimension as a
/// big-endian 32-bit integer, then the elements; gzipped here.
/// </summary>
internal static class IdxFile
{
    private const int Bytes = 8;

    /// <summary>Reads a file of bytes that must have exactly these dimensions.</summary>
    /// <exception cref="InvalidDataException">It has others, or is damaged.</exception>
    internal static Tensor Read(string path, params long[] shape)
    {
        using var stream = new GZipStream(File.OpenRead(path), CompressionMode.Decompress);
        try
        {
            Span<byte> header = stackalloc byte[4 + (4 * shape.Length)];
            stream.ReadExactly(header);
            bool fits = header[0] == 0 && header[1] == 0 && header[2] == Bytes && header[3] == shape.Length;
            for (int i = 0; fits && i < shape.Length; i++)
            {
                fits = BinaryPrimitives.ReadUInt32BigEndian(header[(4 + (4 * i))..]) == shape[i];
            }

            if (!fits) throw new InvalidDataException($"{path} does not hold bytes of shape [{string.Join(", ", shape)}]");
            Tensor result = empty(shape, uint8);
            stream.ReadExactly(result.bytes);
            return result;
        }
        catch (Exception e) when (e is EndOfStreamException || (e is InvalidDataException && !e.Message.StartsWith(path, StringComparison.Ordinal)))
        {
            throw new InvalidDataException($"{path} is damaged: {e.Message}", e);
        }
    }
}

using System.Runtime.InteropServices;

namespace Skein.ParameterServer;

/// <summary>Arrays of singles in a stream, in blocks: an array may have more bytes than an <see cref="int"/> counts.</summary>
internal static class FloatBlocks
{
    private const int BlockLength = 1 << 20;

    public static void Write(BinaryWriter writer, ReadOnlySpan<float> values)
    {
        for (; values.Length > BlockLength; values = values[BlockLength..]) writer.Write(MemoryMarshal.AsBytes(values[..BlockLength]));
        writer.Write(MemoryMarshal.AsBytes(values));
    }

    public static void Read(BinaryReader reader, Span<float> values)
    {
        for (; values.Length > BlockLength; values = values[BlockLength..]) reader.ReadExactly(MemoryMarshal.AsBytes(values[..BlockLength]));
        reader.ReadExactly(MemoryMarshal.AsBytes(values));
    }
}

using System.Buffers;
using System.Buffers.Binary;
using System.Text;

namespace Skein.Collectives.Rendezvous;

/// <summary>Builds a frame: a length prefix of 4 bytes, then little-endian numbers, and texts and bytes with their own length.</summary>
internal readonly struct FrameWriter
{
    public const int PrefixLength = sizeof(uint);

    private readonly ArrayBufferWriter<byte> buffer = new();

    public FrameWriter() => buffer.Advance(Reserve(PrefixLength).Length);

    public void WriteByte(byte value) => Next(1)[0] = value;

    public void WriteInt32(int value) => BinaryPrimitives.WriteInt32LittleEndian(Next(sizeof(int)), value);

    public void WriteInt64(long value) => BinaryPrimitives.WriteInt64LittleEndian(Next(sizeof(long)), value);

    public void WriteBytes(ReadOnlySpan<byte> value)
    {
        WriteInt32(value.Length);
        value.CopyTo(Next(value.Length));
    }

    public void WriteText(string value)
    {
        int length = Encoding.UTF8.GetByteCount(value);
        WriteInt32(length);
        Encoding.UTF8.GetBytes(value, Next(length));
    }

    /// <summary>The whole frame, with its prefix.</summary>
    public byte[] ToFrame()
    {
        byte[] frame = buffer.WrittenSpan.ToArray();
        BinaryPrimitives.WriteInt32LittleEndian(frame, frame.Length - PrefixLength);
        return frame;
    }

    private Span<byte> Next(int length)
    {
        Span<byte> span = Reserve(length);
        buffer.Advance(length);
        return span;
    }

    // Asking an ArrayBufferWriter for 0 bytes means "at least 1".
    private Span<byte> Reserve(int length) => buffer.GetSpan(Math.Max(length, 1))[..length];
}

/// <summary>Reads a frame's content; every read is checked against what is there and against the field's own limit.</summary>
internal ref struct FrameReader(ReadOnlySpan<byte> content)
{
    private ReadOnlySpan<byte> rest = content;

    public byte ReadByte() => Take(1)[0];

    public int ReadInt32() => BinaryPrimitives.ReadInt32LittleEndian(Take(sizeof(int)));

    public long ReadInt64() => BinaryPrimitives.ReadInt64LittleEndian(Take(sizeof(long)));

    public ReadOnlySpan<byte> ReadBytes(int maximumLength)
    {
        int length = ReadInt32();
        if (length < 0 || length > maximumLength)
        {
            throw new InvalidDataException($"a field of {length} bytes was announced; at most {maximumLength} are allowed");
        }

        return Take(length);
    }

    public string ReadText(int maximumLength) => Encoding.UTF8.GetString(ReadBytes(maximumLength));

    /// <exception cref="InvalidDataException">Something is left over.</exception>
    public readonly void End()
    {
        if (!rest.IsEmpty) throw new InvalidDataException($"{rest.Length} bytes too many in a frame");
    }

    private ReadOnlySpan<byte> Take(int length)
    {
        if (length > rest.Length) throw new InvalidDataException($"a frame ends {length - rest.Length} bytes too early");
        ReadOnlySpan<byte> taken = rest[..length];
        rest = rest[length..];
        return taken;
    }
}

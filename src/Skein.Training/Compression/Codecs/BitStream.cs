using System.Buffers.Binary;
using System.Numerics;

namespace Skein.Training.Compression.Codecs;

/// <summary>Appends bits to bytes, lowest bit first.</summary>
internal ref struct BitWriter(Span<byte> target)
{
    private readonly Span<byte> target = target;
    private ulong pending;
    private int pendingBits;

    /// <summary>The whole bytes written.</summary>
    public int Length { get; private set; }

    /// <summary>Appends the lowest <paramref name="count"/> bits, 0 to 32, of <paramref name="bits"/>, whose others are 0.</summary>
    public void Write(uint bits, int count)
    {
        pending |= (ulong)bits << pendingBits;
        pendingBits += count;
        if (pendingBits < 32) return;
        BinaryPrimitives.WriteUInt32LittleEndian(target[Length..], (uint)pending);
        Length += sizeof(uint);
        pending >>= 32;
        pendingBits -= 32;
    }

    /// <summary>Appends a number in Rice's code (1979): as many zeros as its high part says, a one, its <paramref name="low"/> lowest bits, 0 to 31.</summary>
    public void WriteRice(uint number, int low)
    {
        uint zeros = number >> low, rest = number & ((1u << low) - 1);
        if (zeros + low < 32)
        {
            Write((1u << (int)zeros) | (uint)((ulong)rest << ((int)zeros + 1)), (int)zeros + 1 + low);
            return;
        }

        for (; zeros >= 31; zeros -= 31) Write(0, 31);
        Write(1u << (int)zeros, (int)zeros + 1);
        Write(rest, low);
    }

    /// <summary>Writes what is left of the last byte as zeros.</summary>
    public void Complete()
    {
        for (; pendingBits > 0; pendingBits -= 8, pending >>= 8) target[Length++] = (byte)pending;
    }
}

/// <summary>Reads what <see cref="BitWriter"/> wrote.</summary>
internal ref struct BitReader(ReadOnlySpan<byte> source)
{
    private readonly ReadOnlySpan<byte> source = source;
    private ulong window;
    private int windowBits;
    private int position;

    /// <summary>The next <paramref name="count"/> bits, 0 to 32.</summary>
    /// <exception cref="InvalidDataException">There are not so many.</exception>
    public uint Read(int count)
    {
        Fill(count);
        uint bits = (uint)(window & ((1UL << count) - 1));
        Drop(count);
        return bits;
    }

    /// <summary>The next number in Rice's code.</summary>
    /// <exception cref="InvalidDataException">The bytes end within it.</exception>
    public long ReadRice(int low) => ((long)ReadUnary() << low) + Read(low);

    private int ReadUnary()
    {
        int zeros = 0;
        Fill(1);
        while (window == 0)
        {
            zeros += windowBits;
            Drop(windowBits);
            Fill(1);
        }

        int last = BitOperations.TrailingZeroCount(window);
        Drop(last + 1);
        return zeros + last;
    }

    private void Fill(int count)
    {
        while (windowBits < count)
        {
            if (position + sizeof(uint) <= source.Length)
            {
                window |= (ulong)BinaryPrimitives.ReadUInt32LittleEndian(source[position..]) << windowBits;
                position += sizeof(uint);
                windowBits += 32;
            }
            else if (position < source.Length)
            {
                window |= (ulong)source[position++] << windowBits;
                windowBits += 8;
            }
            else
            {
                throw new InvalidDataException("a payload ends in the middle of a number");
            }
        }
    }

    private void Drop(int count)
    {
        window = count == 64 ? 0 : window >> count;
        windowBits -= count;
    }
}

using System.Buffers.Binary;
using System.Runtime.Intrinsics.X86;

namespace Skein.Training.Compression.Codecs;

/// <summary>Small signed numbers in a fixed number of bits, eight at a time.</summary>
internal static class PackedBits
{
    private const int Group = 8;

    /// <summary>The bytes that <paramref name="count"/> numbers of <paramref name="bits"/> bits, 1 to 8, take.</summary>
    public static int Length(int count, int bits) => checked((int)(((long)count + Group - 1) / Group * bits));

    /// <summary>Writes numbers from -<paramref name="offset"/> on.</summary>
    /// <returns>The bytes used.</returns>
    public static int Write(ReadOnlySpan<sbyte> numbers, int bits, int offset, Span<byte> target)
    {
        int length = 0;
        Span<byte> last = stackalloc byte[sizeof(ulong)];
        for (int i = 0; i < numbers.Length; i += Group, length += bits)
        {
            ulong bytes = 0;
            int count = Math.Min(Group, numbers.Length - i);
            for (int j = 0; j < count; j++) bytes |= (ulong)(byte)(numbers[i + j] + offset) << (8 * j);
            ulong packed = Pack(bytes, bits);
            if (target.Length - length >= sizeof(ulong))
            {
                BinaryPrimitives.WriteUInt64LittleEndian(target[length..], packed);
            }
            else
            {
                BinaryPrimitives.WriteUInt64LittleEndian(last, packed);
                last[..bits].CopyTo(target[length..]);
            }
        }

        return length;
    }

    /// <summary>Reads what <see cref="Write"/> wrote; from other bytes come other numbers.</summary>
    public static void Read(ReadOnlySpan<byte> source, int bits, int offset, Span<sbyte> numbers)
    {
        Span<byte> last = stackalloc byte[sizeof(ulong)];
        for (int i = 0, position = 0; i < numbers.Length; i += Group, position += bits)
        {
            ulong packed;
            if (source.Length - position >= sizeof(ulong))
            {
                packed = BinaryPrimitives.ReadUInt64LittleEndian(source[position..]);
            }
            else
            {
                last.Clear();
                source.Slice(position, bits).CopyTo(last);
                packed = BinaryPrimitives.ReadUInt64LittleEndian(last);
            }

            ulong bytes = Unpack(packed, bits);
            int count = Math.Min(Group, numbers.Length - i);
            for (int j = 0; j < count; j++) numbers[i + j] = (sbyte)((byte)(bytes >> (8 * j)) - offset);
        }
    }

    private static ulong Mask(int bits) => 0x0101_0101_0101_0101UL * ((1UL << bits) - 1);

    private static ulong Pack(ulong bytes, int bits)
    {
        if (Bmi2.X64.IsSupported) return Bmi2.X64.ParallelBitExtract(bytes, Mask(bits));
        ulong packed = 0;
        for (int j = 0; j < Group; j++) packed |= ((bytes >> (8 * j)) & ((1UL << bits) - 1)) << (bits * j);
        return packed;
    }

    private static ulong Unpack(ulong packed, int bits)
    {
        if (Bmi2.X64.IsSupported) return Bmi2.X64.ParallelBitDeposit(packed, Mask(bits));
        ulong bytes = 0;
        for (int j = 0; j < Group; j++) bytes |= ((packed >> (bits * j)) & ((1UL << bits) - 1)) << (8 * j);
        return bytes;
    }
}

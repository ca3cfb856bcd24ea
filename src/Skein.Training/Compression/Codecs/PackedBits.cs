using System.Buffers.Binary;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
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
        int length = 0, i = 0;
        for (; i <= numbers.Length - Group && length <= target.Length - sizeof(ulong); i += Group, length += bits)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(target[length..], Pack(numbers[i..], bits, offset));
        }

        Span<sbyte> group = stackalloc sbyte[Group];
        Span<byte> last = stackalloc byte[sizeof(ulong)];
        for (; i < numbers.Length; i += Group, length += bits)
        {
            group.Clear();
            numbers.Slice(i, Math.Min(Group, numbers.Length - i)).CopyTo(group);
            BinaryPrimitives.WriteUInt64LittleEndian(last, Pack(group, bits, offset));
            last[..bits].CopyTo(target[length..]);
        }

        return length;
    }

    /// <summary>Reads what <see cref="Write"/> wrote; from other bytes come other numbers.</summary>
    public static void Read(ReadOnlySpan<byte> source, int bits, int offset, Span<sbyte> numbers)
    {
        int position = 0, i = 0;
        for (; i <= numbers.Length - Group && position <= source.Length - sizeof(ulong); i += Group, position += bits)
        {
            Unpack(BinaryPrimitives.ReadUInt64LittleEndian(source[position..]), bits, offset, numbers[i..]);
        }

        Span<sbyte> group = stackalloc sbyte[Group];
        Span<byte> last = stackalloc byte[sizeof(ulong)];
        for (; i < numbers.Length; i += Group, position += bits)
        {
            last.Clear();
            source.Slice(position, bits).CopyTo(last);
            Unpack(BinaryPrimitives.ReadUInt64LittleEndian(last), bits, offset, group);
            group[..Math.Min(Group, numbers.Length - i)].CopyTo(numbers[i..]);
        }
    }

    private static ulong Mask(int bits) => 0x0101_0101_0101_0101UL * ((1UL << bits) - 1);

    private static ulong Pack(ReadOnlySpan<sbyte> numbers, int bits, int offset)
    {
        ulong bytes = (Vector128.CreateScalar(MemoryMarshal.Read<ulong>(MemoryMarshal.AsBytes(numbers))).AsSByte() + Vector128.Create((sbyte)offset)).AsUInt64().ToScalar();
        if (Bmi2.X64.IsSupported) return Bmi2.X64.ParallelBitExtract(bytes, Mask(bits));
        ulong packed = 0;
        for (int j = 0; j < Group; j++) packed |= ((bytes >> (8 * j)) & ((1UL << bits) - 1)) << (bits * j);
        return packed;
    }

    private static void Unpack(ulong packed, int bits, int offset, Span<sbyte> numbers) => MemoryMarshal.Write(
        MemoryMarshal.AsBytes(numbers), (Vector128.CreateScalar(Spread(packed, bits)).AsSByte() - Vector128.Create((sbyte)offset)).AsUInt64().ToScalar());

    private static ulong Spread(ulong packed, int bits)
    {
        if (Bmi2.X64.IsSupported) return Bmi2.X64.ParallelBitDeposit(packed, Mask(bits));
        ulong bytes = 0;
        for (int j = 0; j < Group; j++) bytes |= ((packed >> (bits * j)) & ((1UL << bits) - 1)) << (8 * j);
        return bytes;
    }
}

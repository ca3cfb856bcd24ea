using System.Buffers.Binary;
using System.Numerics;
using System.Runtime.InteropServices;

namespace Skein.Training.Compression.Codecs;

/// <summary>
/// Small signed numbers in Elias' gamma code (1975), the ones near zero first: 0, -1, 1, -2, … take 1, 3, 3, 5, … bits.
/// </summary>
internal static class EliasGamma
{
    private static readonly byte[] Lengths = [.. Enumerable.Range(0, 256).Select(static level => (byte)((2 * BitOperations.Log2(Ordinal((sbyte)level))) + 1))];

    private static readonly ushort[] Codes = [.. Enumerable.Range(0, 256).Select(static level => Code((sbyte)level))];

    private const int TableBits = 12;
    private const int TableSize = 1 << TableBits;
    private const int MostAtOnce = 4;
    private static readonly ulong[] Several = TabulateSeveral();

    // Magnitudes up to 127 have ordinals up to 255.
    private const int MostDigits = 7;
    private const int LongestCode = (2 * MostDigits) + 1;

    /// <summary>The bits that <paramref name="numbers"/> take.</summary>
    public static long Bits(ReadOnlySpan<sbyte> numbers)
    {
        byte[] lengths = Lengths;
        long bits = 0;
        foreach (sbyte number in numbers) bits += lengths[(byte)number];
        return bits;
    }

    /// <returns>The bytes used.</returns>
    public static int Write(ReadOnlySpan<sbyte> numbers, Span<byte> target)
    {
        ushort[] codes = Codes;
        byte[] lengths = Lengths;
        ulong pending = 0;
        int pendingBits = 0, written = 0;
        foreach (sbyte number in numbers)
        {
            pending |= (ulong)codes[(byte)number] << pendingBits;
            pendingBits += lengths[(byte)number];
            if (pendingBits < 32) continue;
            BinaryPrimitives.WriteUInt32LittleEndian(target[written..], (uint)pending);
            written += sizeof(uint);
            pending >>= 32;
            pendingBits -= 32;
        }

        for (; pendingBits > 0; pendingBits -= 8, pending >>= 8) target[written++] = (byte)pending;
        return written;
    }

    /// <exception cref="InvalidDataException">The bytes end too early, go on for too long, or hold a number that is too large.</exception>
    public static void Read(ReadOnlySpan<byte> source, Span<sbyte> numbers)
    {
        ulong[] several = Several;
        ulong window = 0;
        int windowBits = 0, position = 0;
        for (int i = 0; i < numbers.Length;)
        {
            if (windowBits < LongestCode)
            {
                if (position + sizeof(uint) <= source.Length)
                {
                    window |= (ulong)BinaryPrimitives.ReadUInt32LittleEndian(source[position..]) << windowBits;
                    position += sizeof(uint);
                    windowBits += 32;
                }
                else
                {
                    for (; position < source.Length && windowBits <= 56; windowBits += 8) window |= (ulong)source[position++] << windowBits;
                }
            }

            ulong entry = several[window & (TableSize - 1)];
            int bits = (byte)(entry >> 32);
            if (bits > 0 && bits <= windowBits && i <= numbers.Length - MostAtOnce)
            {
                // Those of the four that are too many are overwritten by the next.
                MemoryMarshal.Write(MemoryMarshal.AsBytes(numbers[i..]), (uint)entry);
                i += (int)(entry >> 40);
                window >>= bits;
                windowBits -= bits;
                continue;
            }

            int digits = BitOperations.TrailingZeroCount(window);
            if (digits > MostDigits || (2 * digits) + 1 > windowBits) throw new InvalidDataException($"a payload's level {i} ends too early or is too large");
            uint ordinal = (1u << digits) | ((uint)(window >> (digits + 1)) & ((1u << digits) - 1));
            numbers[i++] = Number(ordinal);
            window >>= (2 * digits) + 1;
            windowBits -= (2 * digits) + 1;
        }

        long unused = windowBits + (8L * (source.Length - position));
        if (unused >= 8) throw new InvalidDataException($"a payload has {unused / 8} bytes more than its levels take");
    }

    /// <summary>The leading one of an ordinal ends the zeros that tell its digits; the digits below it follow.</summary>
    private static ushort Code(sbyte number)
    {
        uint ordinal = Ordinal(number);
        int digits = BitOperations.Log2(ordinal);
        return (ushort)((1u << digits) | ((ordinal - (1u << digits)) << (digits + 1)));
    }

    /// <summary>What the lowest bits of a window begin with: up to four numbers, the bits they take together, and how many they are.</summary>
    private static ulong[] TabulateSeveral()
    {
        var table = new ulong[TableSize];
        for (int window = 0; window < TableSize; window++)
        {
            int used = 0, count = 0;
            ulong numbers = 0;
            while (count < MostAtOnce && window >> used != 0)
            {
                int digits = BitOperations.TrailingZeroCount(window >> used);
                int length = (2 * digits) + 1;
                if (used + length > TableBits) break;
                uint ordinal = (1u << digits) | ((uint)(window >> (used + digits + 1)) & ((1u << digits) - 1));
                numbers |= (ulong)(byte)Number(ordinal) << (8 * count++);
                used += length;
            }

            table[window] = numbers | ((ulong)used << 32) | ((ulong)count << 40);
        }

        return table;
    }

    private static sbyte Number(uint ordinal) => (sbyte)((ordinal & 1) == 0 ? -(int)(ordinal / 2) : (int)(ordinal / 2));

    /// <summary>1, 2, 3, 4, 5, … for 0, -1, 1, -2, 2, …</summary>
    private static uint Ordinal(sbyte number) => number >= 0 ? (uint)((2 * number) + 1) : (uint)(-2 * number);
}

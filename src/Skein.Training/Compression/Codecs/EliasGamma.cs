using System.Buffers.Binary;
using System.Numerics;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace Skein.Training.Compression.Codecs;

/// <summary>
/// Small signed numbers in Elias' gamma code (1975), the ones near zero first: 0, -1, 1, -2, … take 1, 3, 3, 5, … bits.
/// </summary>
internal static class EliasGamma
{
    private const int LengthShift = 16;

    /// <summary>For each number, as a byte, its code, and above that the code's length.</summary>
    private static readonly uint[] Codes = [.. Enumerable.Range(0, 256).Select(static number => Code((sbyte)number))];

    private const int TableBits = 12;
    private const int TableSize = 1 << TableBits;
    private const int MostAtOnce = 4;
    private static readonly ulong[] Several = TabulateSeveral();

    // Magnitudes up to 127 have ordinals up to 255.
    private const int MostDigits = 7;
    private const int LongestCode = (2 * MostDigits) + 1;

    /// <summary>The bits that <paramref name="numbers"/> take; none of them is -128.</summary>
    public static long Bits(ReadOnlySpan<sbyte> numbers)
    {
        // A code has two bits more for each power of two, from 1 up, that the magnitude reaches.
        long reached = 0;
        int i = 0;
        for (; i <= numbers.Length - Vector512<sbyte>.Count; i += Vector512<sbyte>.Count)
        {
            Vector512<sbyte> magnitude = Vector512.Abs(Vector512.Create(numbers[i..]));
            for (int power = 1; power <= 64; power *= 2)
            {
                ulong those = Vector512.GreaterThanOrEqual(magnitude, Vector512.Create((sbyte)power)).ExtractMostSignificantBits();
                if (those == 0) break;
                reached += BitOperations.PopCount(those);
            }
        }

        for (; i < numbers.Length; i++) reached += BitOperations.Log2(Ordinal(numbers[i]));
        return numbers.Length + (2 * reached);
    }

    /// <returns>The bytes used.</returns>
    public static int Write(ReadOnlySpan<sbyte> numbers, Span<byte> target)
    {
        uint[] codes = Codes;
        ulong pending = 0;
        int pendingBits = 0, written = 0, i = 0;
        // Three codes and the rest of a byte fit; writing them whole each time spares a branch that none can predict.
        for (; i <= numbers.Length - 3 && written <= target.Length - sizeof(ulong); i += 3)
        {
            uint a = codes[(byte)numbers[i]], b = codes[(byte)numbers[i + 1]], c = codes[(byte)numbers[i + 2]];
            int first = (int)(a >> LengthShift), both = first + (int)(b >> LengthShift);
            ulong code = (ushort)a | ((ulong)(ushort)b << first) | ((ulong)(ushort)c << both);
            pending |= code << pendingBits;
            pendingBits += both + (int)(c >> LengthShift);
            BinaryPrimitives.WriteUInt64LittleEndian(target[written..], pending);
            written += pendingBits / 8;
            pending >>= pendingBits & ~7;
            pendingBits &= 7;
        }

        for (; i < numbers.Length; i++)
        {
            uint code = codes[(byte)numbers[i]];
            pending |= (ulong)(ushort)code << pendingBits;
            pendingBits += (int)(code >> LengthShift);
            for (; pendingBits >= 8; pendingBits -= 8, pending >>= 8) target[written++] = (byte)pending;
        }

        if (pendingBits > 0) target[written++] = (byte)pending;
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
    private static uint Code(sbyte number)
    {
        uint ordinal = Ordinal(number);
        int digits = BitOperations.Log2(ordinal);
        return (1u << digits) | ((ordinal - (1u << digits)) << (digits + 1)) | ((uint)((2 * digits) + 1) << LengthShift);
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

using System.Numerics;

namespace Skein.Training.Compression.Codecs;

/// <summary>
/// Small signed numbers in Elias' gamma code (1975), the ones near zero first: 0, -1, 1, -2, … take 1, 3, 3, 5, … bits.
/// </summary>
internal static class EliasGamma
{
    private static readonly byte[] Lengths = [.. Enumerable.Range(0, 256).Select(static level => (byte)((2 * BitOperations.Log2(Ordinal((sbyte)level))) + 1))];

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
        var writer = new BitWriter(target);
        foreach (sbyte number in numbers)
        {
            uint ordinal = Ordinal(number);
            int digits = BitOperations.Log2(ordinal);
            // The leading one ends the zeros before it, so the digits below it follow.
            writer.Write(1u << digits, digits + 1);
            writer.Write(ordinal - (1u << digits), digits);
        }

        writer.Complete();
        return writer.Length;
    }

    /// <exception cref="InvalidDataException">The bytes end too early, go on for too long, or hold a number that is too large.</exception>
    public static void Read(ReadOnlySpan<byte> source, Span<sbyte> numbers)
    {
        var reader = new BitReader(source);
        long bits = 0;
        for (int i = 0; i < numbers.Length; i++)
        {
            int digits = reader.ReadUnary();
            if (digits > 7) throw new InvalidDataException($"a level of a payload has {digits} binary digits; the most are 7");
            uint ordinal = (1u << digits) | reader.Read(digits);
            numbers[i] = (sbyte)((ordinal & 1) == 0 ? -(int)(ordinal / 2) : (int)(ordinal / 2));
            bits += (2 * digits) + 1;
        }

        if (source.Length != (bits + 7) / 8) throw new InvalidDataException($"a payload has {source.Length} bytes of levels, but they end after {(bits + 7) / 8}");
    }

    /// <summary>1, 2, 3, 4, 5, … for 0, -1, 1, -2, 2, …</summary>
    private static uint Ordinal(sbyte number) => number >= 0 ? (uint)((2 * number) + 1) : (uint)(-2 * number);
}

namespace Skein.Collectives.Tests;

/// <summary>The vectors' conversions against those of single numbers.</summary>
public class ReducedPrecisionTests
{
    // Whole vectors of the widest kind, narrower ones and single numbers, as the length decides.
    private static readonly int[] Lengths = [1, 31, 32, 47, 64, 127];

    [Fact]
    public void Every_half_is_added_exactly()
    {
        Half[] halves = [.. Enumerable.Range(0, 1 << 16).Select(static bits => BitConverter.UInt16BitsToHalf((ushort)bits))];
        InParts(halves, (start, length) =>
        {
            var sum = new float[length];
            ReducedPrecision.Add(halves.AsSpan(start, length), sum);
            for (int i = 0; i < length; i++) Assert.Equal((float)halves[start + i], sum[i]);
        });
    }

    [Fact]
    public void Every_bfloat16_is_added_exactly()
    {
        BFloat16[] numbers = [.. Enumerable.Range(0, 1 << 16).Select(static bits => new BFloat16((ushort)bits))];
        InParts(numbers, (start, length) =>
        {
            var sum = new float[length];
            Array.Fill(sum, 1);
            ReducedPrecision.Add(numbers.AsSpan(start, length), sum);
            for (int i = 0; i < length; i++) Assert.Equal(1 + (float)numbers[start + i], sum[i]);
        });
    }

    [Fact]
    public void Singles_are_rounded_as_one_by_one()
    {
        // From all over the patterns, and the ones around each that two neighbouring halves have in their middle.
        IEnumerable<uint> patterns = Enumerable.Range(0, 1 << 18).Select(static i => (uint)i * 16_381u)
            .Concat(Enumerable.Range(0, 1 << 15).SelectMany(static bits => Enumerable.Range(-1, 3).Select(offset => Middle((ushort)bits) + (uint)offset)));
        float[] values = [.. patterns.Select(BitConverter.UInt32BitsToSingle)];
        InParts(values, (start, length) =>
        {
            var halves = new Half[length];
            var brains = new BFloat16[length];
            ReducedPrecision.Narrow(values.AsSpan(start, length), halves);
            ReducedPrecision.Narrow(values.AsSpan(start, length), brains);
            for (int i = 0; i < length; i++)
            {
                float value = values[start + i];
                if (float.IsNaN(value)) Assert.True(Half.IsNaN(halves[i]));
                else Assert.Equal(BitConverter.HalfToUInt16Bits((Half)value), BitConverter.HalfToUInt16Bits(halves[i]));
                Assert.Equal((float)(BFloat16)value, (float)brains[i]);
            }
        });

        static uint Middle(ushort bits) => BitConverter.SingleToUInt32Bits((float)BitConverter.UInt16BitsToHalf(bits)) + 0x1000;
    }

    private static void InParts<T>(T[] values, Action<int, int> check)
    {
        for (int start = 0, part = 0; start < values.Length; part++)
        {
            int length = Math.Min(Lengths[part % Lengths.Length], values.Length - start);
            check(start, length);
            start += length;
        }
    }
}

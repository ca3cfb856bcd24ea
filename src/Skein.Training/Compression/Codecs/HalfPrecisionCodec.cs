using System.Numerics;
using System.Numerics.Tensors;
using System.Runtime.InteropServices;
using Skein.Collectives;

namespace Skein.Training.Compression.Codecs;

/// <summary>Every value in 16 bits: 2 times fewer bytes.</summary>
/// <remarks>Blocks stay in the nearest cache between the look at their largest value and the conversion.</remarks>
internal abstract class HalfPrecisionCodec : Codec
{
    private protected const int BlockSize = 2048;

    /// <summary>The bits of the largest magnitude that a payload may hold.</summary>
    private protected abstract ushort LargestBits { get; }

    public override int MaxEncodedLength(int count) => checked(HeadLength(count) + (count * sizeof(ushort)));

    public override void Add(ReadOnlySpan<byte> payload, Span<float> sum)
    {
        CheckLength(payload, sum.Length);
        ReadOnlySpan<ushort> narrow = MemoryMarshal.Cast<byte, ushort>(payload[HeadLength(sum.Length)..]);
        for (int start = 0, index = 0; start < narrow.Length; start += BlockSize, index++)
        {
            int count = Math.Min(BlockSize, narrow.Length - start);
            ReadOnlySpan<ushort> block = narrow.Slice(start, count);
            if (LargestMagnitude(block) > LargestBits) throw Bad($"has a value beyond {LargestValue}, in element {start} or one of the next {count - 1}");
            AddBlock(payload, index, block, sum.Slice(start, count));
        }
    }

    /// <summary>How many bytes of a payload come before the values.</summary>
    private protected abstract int HeadLength(int count);

    private protected abstract void AddBlock(ReadOnlySpan<byte> payload, int index, ReadOnlySpan<ushort> bits, Span<float> sum);

    /// <summary>Without their sign, both formats' bits have the order of the values, and NaN comes last.</summary>
    private static ushort LargestMagnitude(ReadOnlySpan<ushort> bits)
    {
        var magnitude = new Vector<ushort>(0x7FFF);
        Vector<ushort> most = Vector<ushort>.Zero;
        int i = 0;
        for (; i <= bits.Length - Vector<ushort>.Count; i += Vector<ushort>.Count) most = Vector.Max(most, new Vector<ushort>(bits[i..]) & magnitude);
        int largest = 0;
        for (int lane = 0; lane < Vector<ushort>.Count; lane++) largest = Math.Max(largest, most[lane]);
        for (; i < bits.Length; i++) largest = Math.Max(largest, bits[i] & 0x7FFF);
        return (ushort)largest;
    }
}

/// <summary>
/// IEEE 754 binary16, of values divided by a power of two for every 2,048 of them, which comes first: their largest becomes
/// one from 2^14 to below 2^15, so that neither it nor an average over ranks overflows, and values down to 2^-28 of it keep all of
/// binary16's precision.
/// </summary>
internal sealed class Float16Codec : HalfPrecisionCodec
{
    private const int LargestExponent = 14;

    // Its reciprocal, and 2^15 times the largest scale, are numbers that a single has.
    private const int SmallestScaleExponent = -126, LargestScaleExponent = 98;

    private protected override ushort LargestBits => BitConverter.HalfToUInt16Bits(Half.MaxValue);

    /// <summary>The scales at the head of a payload for <paramref name="count"/> values.</summary>
    public static Span<float> Scales(Span<byte> payload, int count) => MemoryMarshal.Cast<byte, float>(payload)[..Blocks(count, BlockSize)];

    /// <summary>The values in a payload for <paramref name="count"/> of them.</summary>
    public static Span<Half> Values(Span<byte> payload, int count) =>
        MemoryMarshal.Cast<byte, Half>(payload[(Blocks(count, BlockSize) * sizeof(float))..]);

    /// <summary>Writes the smallest scales with which these values can be encoded. Larger ones lose some of the small ones.</summary>
    public static void Measure(ReadOnlySpan<float> values, Span<float> scales)
    {
        for (int index = 0; index < scales.Length; index++) scales[index] = ScaleFor(Block(values, index));
    }

    /// <summary>Encodes values with given scales.</summary>
    public static void Narrow(ReadOnlySpan<float> values, ReadOnlySpan<float> scales, Span<Half> narrow)
    {
        for (int index = 0; index < scales.Length; index++) NarrowBlock(values, index, scales[index], narrow);
    }

    public override string ToString() => "fp16";

    private protected override int HeadLength(int count) => Blocks(count, BlockSize) * sizeof(float);

    private protected override int EncodeValues(ReadOnlySpan<float> values, Span<byte> payload)
    {
        Span<float> scales = Scales(payload, values.Length);
        Span<Half> narrow = Values(payload, values.Length);
        for (int index = 0; index < scales.Length; index++)
        {
            scales[index] = ScaleFor(Block(values, index));
            NarrowBlock(values, index, scales[index], narrow);
        }

        return payload.Length;
    }

    private protected override void AddBlock(ReadOnlySpan<byte> payload, int index, ReadOnlySpan<ushort> bits, Span<float> sum)
    {
        float scale = MemoryMarshal.Read<float>(payload[(index * sizeof(float))..]);
        bool possible = scale > 0 && scale <= Power(LargestScaleExponent);
        if (!possible) throw Bad($"has scale {scale} for block {index}; a scale lies above 0, and up to 2^{LargestScaleExponent}");
        ReducedPrecision.Add(MemoryMarshal.Cast<ushort, Half>(bits), sum, scale);
    }

    private static ReadOnlySpan<float> Block(ReadOnlySpan<float> values, int index) =>
        values.Slice(index * BlockSize, Math.Min(BlockSize, values.Length - (index * BlockSize)));

    private static void NarrowBlock(ReadOnlySpan<float> values, int index, float scale, Span<Half> narrow) =>
        ReducedPrecision.Narrow(Block(values, index), narrow[(index * BlockSize)..], 1 / scale);

    private static float ScaleFor(ReadOnlySpan<float> block)
    {
        int exponent = (int)(BitConverter.SingleToUInt32Bits(TensorPrimitives.MaxMagnitude(block)) >> 23 & 0xFF) - 127;
        return Power(Math.Clamp(exponent - LargestExponent, SmallestScaleExponent, LargestScaleExponent));
    }

    private static float Power(int exponent) => BitConverter.Int32BitsToSingle((exponent + 127) << 23);
}

/// <summary>The upper half of a single: its range, with 8 bits of precision.</summary>
internal sealed class BFloat16Codec : HalfPrecisionCodec
{
    // Rounded, as the largest value itself is when it is encoded.
    private protected override ushort LargestBits => ((BFloat16)LargestValue).Bits;

    public override string ToString() => "bf16";

    private protected override int HeadLength(int count) => 0;

    private protected override int EncodeValues(ReadOnlySpan<float> values, Span<byte> payload)
    {
        ReducedPrecision.Narrow(values, MemoryMarshal.Cast<byte, BFloat16>(payload));
        return payload.Length;
    }

    private protected override void AddBlock(ReadOnlySpan<byte> payload, int index, ReadOnlySpan<ushort> bits, Span<float> sum) =>
        ReducedPrecision.Add(MemoryMarshal.Cast<ushort, BFloat16>(bits), sum);
}

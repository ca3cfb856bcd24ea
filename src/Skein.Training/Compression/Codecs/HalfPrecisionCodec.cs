using System.Numerics;
using System.Runtime.InteropServices;
using Skein.Collectives;

namespace Skein.Training.Compression.Codecs;

/// <summary>Every value in 16 bits: 2 times fewer bytes.</summary>
/// <remarks>Blocks stay in the nearest cache between the look at their largest value and the conversion.</remarks>
internal abstract class HalfPrecisionCodec : Codec
{
    private const int BlockSize = 2048;

    /// <summary>The bits of the largest magnitude that a payload may hold.</summary>
    private protected abstract ushort LargestBits { get; }

    public override int MaxEncodedLength(int count) => checked(count * sizeof(ushort));

    public override void Add(ReadOnlySpan<byte> payload, Span<float> sum)
    {
        CheckLength(payload, sum.Length);
        ReadOnlySpan<ushort> narrow = MemoryMarshal.Cast<byte, ushort>(payload);
        for (int start = 0; start < narrow.Length; start += BlockSize)
        {
            int count = Math.Min(BlockSize, narrow.Length - start);
            ReadOnlySpan<ushort> block = narrow.Slice(start, count);
            if (LargestMagnitude(block) > LargestBits) throw Bad($"has a value beyond {LargestValue}, in element {start} or one of the next {count - 1}");
            AddBlock(block, sum.Slice(start, count));
        }
    }

    private protected override int EncodeValues(ReadOnlySpan<float> values, Span<byte> payload)
    {
        Span<ushort> narrow = MemoryMarshal.Cast<byte, ushort>(payload);
        for (int start = 0; start < values.Length; start += BlockSize)
        {
            int count = Math.Min(BlockSize, values.Length - start);
            NarrowBlock(values.Slice(start, count), narrow.Slice(start, count));
        }

        return payload.Length;
    }

    private protected abstract void NarrowBlock(ReadOnlySpan<float> values, Span<ushort> bits);

    private protected abstract void AddBlock(ReadOnlySpan<ushort> bits, Span<float> sum);

    /// <summary>Without their sign, both formats' bits have the order of the values, and NaN comes last.</summary>
    private protected static ushort LargestMagnitude(ReadOnlySpan<ushort> bits)
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

/// <summary>IEEE 754 binary16.</summary>
/// <param name="limit">Magnitudes above become this: binary16 ends at 65504, and so must a sum over ranks.</param>
internal sealed class Float16Codec(float limit = Float16Codec.Largest) : HalfPrecisionCodec
{
    public const float Largest = 65504;

    private protected override ushort LargestBits => BitConverter.HalfToUInt16Bits(Half.MaxValue);

    public override string ToString() => "fp16";

    private protected override void NarrowBlock(ReadOnlySpan<float> values, Span<ushort> bits)
    {
        Span<Half> halves = MemoryMarshal.Cast<ushort, Half>(bits);
        ReducedPrecision.Narrow(values, halves);
        if (LargestMagnitude(bits) <= BitConverter.HalfToUInt16Bits((Half)limit)) return;
        for (int i = 0; i < values.Length; i++) halves[i] = (Half)Math.Clamp(values[i], -limit, limit);
    }

    private protected override void AddBlock(ReadOnlySpan<ushort> bits, Span<float> sum) => ReducedPrecision.Add(MemoryMarshal.Cast<ushort, Half>(bits), sum);
}

/// <summary>The upper half of a single: its range, with 8 bits of precision.</summary>
internal sealed class BFloat16Codec : HalfPrecisionCodec
{
    // Rounded, as the largest value itself is when it is encoded.
    private protected override ushort LargestBits => ((BFloat16)LargestValue).Bits;

    public override string ToString() => "bf16";

    private protected override void NarrowBlock(ReadOnlySpan<float> values, Span<ushort> bits) =>
        ReducedPrecision.Narrow(values, MemoryMarshal.Cast<ushort, BFloat16>(bits));

    private protected override void AddBlock(ReadOnlySpan<ushort> bits, Span<float> sum) => ReducedPrecision.Add(MemoryMarshal.Cast<ushort, BFloat16>(bits), sum);
}

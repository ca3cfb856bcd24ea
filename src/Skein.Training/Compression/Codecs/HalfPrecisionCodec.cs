using System.Numerics.Tensors;
using System.Runtime.InteropServices;
using Skein.Collectives;

namespace Skein.Training.Compression.Codecs;

/// <summary>Every value in 16 bits: 2 times fewer bytes.</summary>
internal abstract class HalfPrecisionCodec : Codec
{
    private const int BlockSize = 2048;

    public override int MaxEncodedLength(int count) => checked(count * sizeof(ushort));

    public override void Add(ReadOnlySpan<byte> payload, Span<float> sum)
    {
        CheckLength(payload, sum.Length);
        ReadOnlySpan<ushort> narrow = MemoryMarshal.Cast<byte, ushort>(payload);
        Span<float> wide = stackalloc float[BlockSize];
        for (int start = 0; start < sum.Length; start += BlockSize)
        {
            int count = Math.Min(BlockSize, sum.Length - start);
            Span<float> block = wide[..count];
            Widen(narrow.Slice(start, count), block);
            if (!(MathF.Abs(TensorPrimitives.MaxMagnitude<float>(block)) <= LargestValue)) throw Bad($"has a value beyond {LargestValue}, in element {start} or one of the next {count - 1}");
            TensorPrimitives.Add(sum.Slice(start, count), block, sum.Slice(start, count));
        }
    }

    private protected override int EncodeValues(ReadOnlySpan<float> values, Span<byte> payload)
    {
        Narrow(values, MemoryMarshal.Cast<byte, ushort>(payload));
        return payload.Length;
    }

    private protected abstract void Narrow(ReadOnlySpan<float> values, Span<ushort> bits);

    private protected abstract void Widen(ReadOnlySpan<ushort> bits, Span<float> values);
}

/// <summary>IEEE 754 binary16.</summary>
/// <param name="limit">Magnitudes above become this: binary16 ends at 65504, and so must a sum over ranks.</param>
internal sealed class Float16Codec(float limit = Float16Codec.Largest) : HalfPrecisionCodec
{
    public const float Largest = 65504;

    public override string ToString() => "fp16";

    private protected override void Narrow(ReadOnlySpan<float> values, Span<ushort> bits)
    {
        Span<Half> halves = MemoryMarshal.Cast<ushort, Half>(bits);
        ReducedPrecision.Narrow(values, halves);
        if (values.IsEmpty || MathF.Abs(TensorPrimitives.MaxMagnitude(values)) <= limit) return;
        for (int i = 0; i < values.Length; i++) halves[i] = (Half)Math.Clamp(values[i], -limit, limit);
    }

    private protected override void Widen(ReadOnlySpan<ushort> bits, Span<float> values) =>
        ReducedPrecision.Widen(MemoryMarshal.Cast<ushort, Half>(bits), values);
}

/// <summary>The upper half of a single: its range, with 8 bits of precision.</summary>
internal sealed class BFloat16Codec : HalfPrecisionCodec
{
    public override string ToString() => "bf16";

    private protected override void Narrow(ReadOnlySpan<float> values, Span<ushort> bits) =>
        ReducedPrecision.Narrow(values, MemoryMarshal.Cast<ushort, BFloat16>(bits));

    private protected override void Widen(ReadOnlySpan<ushort> bits, Span<float> values) =>
        ReducedPrecision.Widen(MemoryMarshal.Cast<ushort, BFloat16>(bits), values);
}

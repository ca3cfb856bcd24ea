using System.Numerics.Tensors;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace Skein.Training.Compression.Codecs;

/// <summary>
/// Every value as the nearest of 255 multiples of its block's scale, which makes the block's largest magnitude 127
/// (Dettmers 2016, "8-bit approximations for parallelism in deep learning", with linear levels): 4 times fewer bytes.
/// </summary>
internal sealed class Int8Codec : Codec
{
    private const int BlockSize = 512;
    private const float Levels = 127;

    public override int MaxEncodedLength(int count) => checked((Blocks(count, BlockSize) * sizeof(float)) + count);

    public override string ToString() => "int8";

    public override void Add(ReadOnlySpan<byte> payload, Span<float> sum)
    {
        CheckLength(payload, sum.Length);
        ReadOnlySpan<sbyte> levels = MemoryMarshal.Cast<byte, sbyte>(payload[(Blocks(sum.Length, BlockSize) * sizeof(float))..]);
        for (int start = 0, block = 0; start < sum.Length; start += BlockSize, block++)
        {
            int count = Math.Min(BlockSize, sum.Length - start);
            QuantizedLevels.Add(levels.Slice(start, count), ReadScale(payload, block), sum.Slice(start, count));
        }
    }

    private protected override int EncodeValues(ReadOnlySpan<float> values, Span<byte> payload)
    {
        Span<float> scales = MemoryMarshal.Cast<byte, float>(payload)[..Blocks(values.Length, BlockSize)];
        Span<sbyte> levels = MemoryMarshal.Cast<byte, sbyte>(payload[(scales.Length * sizeof(float))..]);
        for (int start = 0, block = 0; start < values.Length; start += BlockSize, block++)
        {
            int count = Math.Min(BlockSize, values.Length - start);
            scales[block] = Round(values.Slice(start, count), levels.Slice(start, count));
        }

        return payload.Length;
    }

    private static float Round(ReadOnlySpan<float> values, Span<sbyte> levels)
    {
        float largest = MathF.Abs(TensorPrimitives.MaxMagnitude(values));
        if (largest < QuantizedLevels.Smallest)
        {
            levels.Clear();
            return 0;
        }

        float toLevel = Levels / largest;
        int i = 0;
        for (; i <= values.Length - Vector512<sbyte>.Count; i += Vector512<sbyte>.Count)
        {
            Vector512<short> low = Vector512.Narrow(At(values, i), At(values, i + 16));
            Vector512<short> high = Vector512.Narrow(At(values, i + 32), At(values, i + 48));
            Vector512.Narrow(low, high).CopyTo(levels[i..]);
        }

        for (; i < values.Length; i++) levels[i] = (sbyte)MathF.Round(values[i] * toLevel);
        return largest / Levels;

        Vector512<int> At(ReadOnlySpan<float> from, int index) =>
            Vector512.ConvertToInt32Native(Vector512.Round(Vector512.Create(from[index..]) * toLevel));
    }
}

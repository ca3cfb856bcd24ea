using System.Runtime.Intrinsics;

namespace Skein.Training.Compression.Codecs;

/// <summary>Signed whole numbers that stand for multiples of a scale.</summary>
internal static class QuantizedLevels
{
    /// <summary>Blocks whose values are all smaller are taken as zero: the reciprocal of their scale would overflow.</summary>
    public const float Smallest = 1e-35f;

    /// <summary>sum += scale * levels.</summary>
    public static void Add(ReadOnlySpan<sbyte> levels, float scale, Span<float> sum)
    {
        int i = 0;
        Vector512<float> factor = Vector512.Create(scale);
        for (; i <= levels.Length - Vector512<sbyte>.Count; i += Vector512<sbyte>.Count)
        {
            (Vector512<short> low, Vector512<short> high) = Vector512.Widen(Vector512.Create(levels[i..]));
            (Vector512<int> first, Vector512<int> second) = Vector512.Widen(low);
            (Vector512<int> third, Vector512<int> fourth) = Vector512.Widen(high);
            Accumulate(first, sum[i..]);
            Accumulate(second, sum[(i + 16)..]);
            Accumulate(third, sum[(i + 32)..]);
            Accumulate(fourth, sum[(i + 48)..]);
        }

        for (; i < levels.Length; i++) sum[i] = MathF.FusedMultiplyAdd(levels[i], scale, sum[i]);

        void Accumulate(Vector512<int> level, Span<float> target) =>
            Vector512.FusedMultiplyAdd(Vector512.ConvertToSingle(level), factor, Vector512.Create<float>(target)).CopyTo(target);
    }
}

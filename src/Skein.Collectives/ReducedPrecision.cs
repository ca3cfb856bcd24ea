using System.Numerics;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using Skein.Collectives.Reduction;

namespace Skein.Collectives;

/// <summary>Rounds whole vectors of <see cref="float"/> to 16-bit floating point, and adds such to others. Thread-safe.</summary>
public static class ReducedPrecision
{
    /// <summary>Rounds to nearest, ties to even; what is too large becomes infinity, NaN stays NaN (quiet).</summary>
    /// <param name="values">Any number of values.</param>
    /// <param name="narrow">At least as many places.</param>
    /// <param name="factor">What each value is multiplied by before.</param>
    public static void Narrow(ReadOnlySpan<float> values, Span<Half> narrow, float factor = 1)
    {
        int done = Narrow<Float16Format>(values, MemoryMarshal.Cast<Half, ushort>(narrow), factor);
        for (; done < values.Length; done++) narrow[done] = (Half)(values[done] * factor);
    }

    /// <inheritdoc cref="Narrow(ReadOnlySpan{float}, Span{Half}, float)"/>
    public static void Narrow(ReadOnlySpan<float> values, Span<BFloat16> narrow, float factor = 1)
    {
        int done = Narrow<BFloat16Format>(values, MemoryMarshal.Cast<BFloat16, ushort>(narrow), factor);
        for (; done < values.Length; done++) narrow[done] = (BFloat16)(values[done] * factor);
    }

    /// <summary>sum += factor × narrow, in one pass over memory.</summary>
    /// <param name="narrow">Any number of values.</param>
    /// <param name="sum">At least as many places.</param>
    /// <param name="factor">What each value is multiplied by.</param>
    public static void Add(ReadOnlySpan<Half> narrow, Span<float> sum, float factor = 1)
    {
        int done = Add<Float16Format>(MemoryMarshal.Cast<Half, ushort>(narrow), sum, factor);
        for (; done < narrow.Length; done++) sum[done] += (float)narrow[done] * factor;
    }

    /// <inheritdoc cref="Add(ReadOnlySpan{Half}, Span{float}, float)"/>
    public static void Add(ReadOnlySpan<BFloat16> narrow, Span<float> sum, float factor = 1)
    {
        int done = Add<BFloat16Format>(MemoryMarshal.Cast<BFloat16, ushort>(narrow), sum, factor);
        for (; done < narrow.Length; done++) sum[done] += (float)narrow[done] * factor;
    }

    /// <returns>How many values were converted: all but a rest.</returns>
    private static int Narrow<TFormat>(ReadOnlySpan<float> values, Span<ushort> bits, float factor) where TFormat : struct, IHalfFormat
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(bits.Length, values.Length, "narrow");
        int i = 0, half = Vector512<float>.Count;
        if (Vector512.IsHardwareAccelerated)
        {
            for (; i <= values.Length - (2 * half); i += 2 * half)
            {
                Vector512<uint> low = TFormat.Narrow(Vector512.Create(values[i..]) * factor);
                Vector512<uint> high = TFormat.Narrow(Vector512.Create(values[(i + half)..]) * factor);
                Vector512.Narrow(low, high).CopyTo(bits[i..]);
            }
        }

        half = Vector<float>.Count;
        for (; i <= values.Length - (2 * half); i += 2 * half)
        {
            Vector<uint> low = TFormat.Narrow(new Vector<float>(values[i..]) * factor);
            Vector<uint> high = TFormat.Narrow(new Vector<float>(values[(i + half)..]) * factor);
            Vector.Narrow(low, high).CopyTo(bits[i..]);
        }

        return i;
    }

    private static int Add<TFormat>(ReadOnlySpan<ushort> bits, Span<float> sum, float factor) where TFormat : struct, IHalfFormat
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(sum.Length, bits.Length, nameof(sum));
        int i = 0, half = Vector512<float>.Count;
        if (Vector512.IsHardwareAccelerated)
        {
            for (; i <= bits.Length - (2 * half); i += 2 * half)
            {
                (Vector512<uint> low, Vector512<uint> high) = Vector512.Widen(Vector512.Create(bits[i..]));
                (Vector512.Create<float>(sum[i..]) + (TFormat.Widen(low) * factor)).CopyTo(sum[i..]);
                (Vector512.Create<float>(sum[(i + half)..]) + (TFormat.Widen(high) * factor)).CopyTo(sum[(i + half)..]);
            }
        }

        half = Vector<float>.Count;
        for (; i <= bits.Length - (2 * half); i += 2 * half)
        {
            Vector.Widen(new Vector<ushort>(bits[i..]), out Vector<uint> low, out Vector<uint> high);
            (new Vector<float>(sum[i..]) + (TFormat.Widen(low) * factor)).CopyTo(sum[i..]);
            (new Vector<float>(sum[(i + half)..]) + (TFormat.Widen(high) * factor)).CopyTo(sum[(i + half)..]);
        }

        return i;
    }
}

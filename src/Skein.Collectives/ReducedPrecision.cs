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
    public static void Narrow(ReadOnlySpan<float> values, Span<Half> narrow)
    {
        int done = Narrow<Float16Format>(values, MemoryMarshal.Cast<Half, ushort>(narrow));
        for (; done < values.Length; done++) narrow[done] = (Half)values[done];
    }

    /// <inheritdoc cref="Narrow(ReadOnlySpan{float}, Span{Half})"/>
    public static void Narrow(ReadOnlySpan<float> values, Span<BFloat16> narrow)
    {
        int done = Narrow<BFloat16Format>(values, MemoryMarshal.Cast<BFloat16, ushort>(narrow));
        for (; done < values.Length; done++) narrow[done] = (BFloat16)values[done];
    }

    /// <summary>sum += narrow, in one pass over memory.</summary>
    /// <param name="narrow">Any number of values.</param>
    /// <param name="sum">At least as many places.</param>
    public static void Add(ReadOnlySpan<Half> narrow, Span<float> sum)
    {
        int done = Add<Float16Format>(MemoryMarshal.Cast<Half, ushort>(narrow), sum);
        for (; done < narrow.Length; done++) sum[done] += (float)narrow[done];
    }

    /// <inheritdoc cref="Add(ReadOnlySpan{Half}, Span{float})"/>
    public static void Add(ReadOnlySpan<BFloat16> narrow, Span<float> sum)
    {
        int done = Add<BFloat16Format>(MemoryMarshal.Cast<BFloat16, ushort>(narrow), sum);
        for (; done < narrow.Length; done++) sum[done] += (float)narrow[done];
    }

    /// <returns>How many values were converted: all but a rest.</returns>
    private static int Narrow<TFormat>(ReadOnlySpan<float> values, Span<ushort> bits) where TFormat : struct, IHalfFormat
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(bits.Length, values.Length, "narrow");
        int i = 0, half = Vector512<float>.Count;
        if (Vector512.IsHardwareAccelerated)
        {
            for (; i <= values.Length - (2 * half); i += 2 * half)
            {
                Vector512<uint> low = TFormat.Narrow(Vector512.Create(values[i..]));
                Vector512<uint> high = TFormat.Narrow(Vector512.Create(values[(i + half)..]));
                Vector512.Narrow(low, high).CopyTo(bits[i..]);
            }
        }

        half = Vector<float>.Count;
        for (; i <= values.Length - (2 * half); i += 2 * half)
        {
            Vector<uint> low = TFormat.Narrow(new Vector<float>(values[i..]));
            Vector<uint> high = TFormat.Narrow(new Vector<float>(values[(i + half)..]));
            Vector.Narrow(low, high).CopyTo(bits[i..]);
        }

        return i;
    }

    private static int Add<TFormat>(ReadOnlySpan<ushort> bits, Span<float> sum) where TFormat : struct, IHalfFormat
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(sum.Length, bits.Length, nameof(sum));
        int i = 0, half = Vector512<float>.Count;
        if (Vector512.IsHardwareAccelerated)
        {
            for (; i <= bits.Length - (2 * half); i += 2 * half)
            {
                (Vector512<uint> low, Vector512<uint> high) = Vector512.Widen(Vector512.Create(bits[i..]));
                (Vector512.Create<float>(sum[i..]) + TFormat.Widen(low)).CopyTo(sum[i..]);
                (Vector512.Create<float>(sum[(i + half)..]) + TFormat.Widen(high)).CopyTo(sum[(i + half)..]);
            }
        }

        half = Vector<float>.Count;
        for (; i <= bits.Length - (2 * half); i += 2 * half)
        {
            Vector.Widen(new Vector<ushort>(bits[i..]), out Vector<uint> low, out Vector<uint> high);
            (new Vector<float>(sum[i..]) + TFormat.Widen(low)).CopyTo(sum[i..]);
            (new Vector<float>(sum[(i + half)..]) + TFormat.Widen(high)).CopyTo(sum[(i + half)..]);
        }

        return i;
    }
}

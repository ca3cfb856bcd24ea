using System.Numerics;
using System.Runtime.InteropServices;
using Skein.Collectives.Reduction;

namespace Skein.Collectives;

/// <summary>Converts whole vectors between <see cref="float"/> and 16-bit floating point. Thread-safe.</summary>
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

    /// <summary>Exact.</summary>
    /// <param name="narrow">Any number of values.</param>
    /// <param name="values">At least as many places.</param>
    public static void Widen(ReadOnlySpan<Half> narrow, Span<float> values)
    {
        int done = Widen<Float16Format>(MemoryMarshal.Cast<Half, ushort>(narrow), values);
        for (; done < narrow.Length; done++) values[done] = (float)narrow[done];
    }

    /// <inheritdoc cref="Widen(ReadOnlySpan{Half}, Span{float})"/>
    public static void Widen(ReadOnlySpan<BFloat16> narrow, Span<float> values)
    {
        int done = Widen<BFloat16Format>(MemoryMarshal.Cast<BFloat16, ushort>(narrow), values);
        for (; done < narrow.Length; done++) values[done] = (float)narrow[done];
    }

    /// <returns>How many values were converted: all but a rest.</returns>
    private static int Narrow<TFormat>(ReadOnlySpan<float> values, Span<ushort> bits) where TFormat : struct, IHalfFormat
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(bits.Length, values.Length, "narrow");
        int i = 0, half = Vector<float>.Count;
        for (; i <= values.Length - (2 * half); i += 2 * half)
        {
            Vector<uint> low = TFormat.Narrow(new Vector<float>(values[i..]));
            Vector<uint> high = TFormat.Narrow(new Vector<float>(values[(i + half)..]));
            Vector.Narrow(low, high).CopyTo(bits[i..]);
        }

        return i;
    }

    private static int Widen<TFormat>(ReadOnlySpan<ushort> bits, Span<float> values) where TFormat : struct, IHalfFormat
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(values.Length, bits.Length, nameof(values));
        int i = 0, half = Vector<float>.Count;
        for (; i <= bits.Length - (2 * half); i += 2 * half)
        {
            Vector.Widen(new Vector<ushort>(bits[i..]), out Vector<uint> low, out Vector<uint> high);
            TFormat.Widen(low).CopyTo(values[i..]);
            TFormat.Widen(high).CopyTo(values[(i + half)..]);
        }

        return i;
    }
}

using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Skein.Collectives.Reduction;

namespace Skein.Collectives;

/// <summary>
/// Brain floating point: the upper 16 bits of an IEEE 754 single, so the range of <see cref="float"/> with 8 bits of
/// precision. A storage type: convert to <see cref="float"/> to calculate.
/// </summary>
/// <param name="bits">The bit pattern.</param>
public readonly struct BFloat16(ushort bits) : IEquatable<BFloat16>
{
    /// <summary>The bit pattern.</summary>
    public ushort Bits { get; } = bits;

    /// <summary>Rounds to nearest, ties to even; NaN stays NaN (quiet).</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static explicit operator BFloat16(float value)
    {
        uint bits = BitConverter.SingleToUInt32Bits(value);
        if (float.IsNaN(value)) return new BFloat16((ushort)((bits >> 16) | 0x40));
        return new BFloat16((ushort)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16));
    }

    /// <summary>Exact.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static explicit operator float(BFloat16 value) => BitConverter.UInt32BitsToSingle((uint)value.Bits << 16);

    /// <summary>Rounds all values to nearest, ties to even; NaN stays NaN (quiet).</summary>
    /// <param name="values">Any number of values.</param>
    /// <param name="narrow">At least as many places.</param>
    public static void Narrow(ReadOnlySpan<float> values, Span<BFloat16> narrow)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(narrow.Length, values.Length, nameof(narrow));
        Span<ushort> bits = MemoryMarshal.Cast<BFloat16, ushort>(narrow);
        int i = 0, half = Vector<float>.Count;
        for (; i <= values.Length - (2 * half); i += 2 * half)
        {
            Vector<uint> low = BFloat16Format.Narrow(new Vector<float>(values[i..]));
            Vector<uint> high = BFloat16Format.Narrow(new Vector<float>(values[(i + half)..]));
            Vector.Narrow(low, high).CopyTo(bits[i..]);
        }

        for (; i < values.Length; i++) narrow[i] = (BFloat16)values[i];
    }

    /// <summary>All values as singles; exact.</summary>
    /// <param name="narrow">Any number of values.</param>
    /// <param name="values">At least as many places.</param>
    public static void Widen(ReadOnlySpan<BFloat16> narrow, Span<float> values)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(values.Length, narrow.Length, nameof(values));
        ReadOnlySpan<ushort> bits = MemoryMarshal.Cast<BFloat16, ushort>(narrow);
        int i = 0, half = Vector<float>.Count;
        for (; i <= narrow.Length - (2 * half); i += 2 * half)
        {
            Vector.Widen(new Vector<ushort>(bits[i..]), out Vector<uint> low, out Vector<uint> high);
            BFloat16Format.Widen(low).CopyTo(values[i..]);
            BFloat16Format.Widen(high).CopyTo(values[(i + half)..]);
        }

        for (; i < narrow.Length; i++) values[i] = (float)narrow[i];
    }

    /// <inheritdoc/>
    public bool Equals(BFloat16 other) => (float)this == (float)other || (float.IsNaN((float)this) && float.IsNaN((float)other));

    /// <inheritdoc/>
    public override bool Equals(object? obj) => obj is BFloat16 other && Equals(other);

    /// <inheritdoc/>
    public override int GetHashCode() => ((float)this).GetHashCode();

    /// <summary>IEEE equality: NaN differs from itself.</summary>
    public static bool operator ==(BFloat16 left, BFloat16 right) => (float)left == (float)right;

    /// <summary>IEEE inequality.</summary>
    public static bool operator !=(BFloat16 left, BFloat16 right) => !(left == right);

    /// <inheritdoc/>
    public override string ToString() => ((float)this).ToString(System.Globalization.CultureInfo.InvariantCulture);
}

using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Skein.Collectives.Reduction;

/// <summary>
/// A 16-bit floating-point format in the low half of 32-bit lanes. Widening is exact; narrowing rounds to nearest, ties
/// to even, and makes NaN quiet.
/// </summary>
/// <remarks>
/// Conversion is arithmetic, not memory, and <see cref="Vector{T}"/> has at most half the width that some processors
/// have: so there are two of each, which take the same steps. Where 512 bits are not the processor's, only the first are fast.
/// </remarks>
internal interface IHalfFormat
{
    static abstract Vector<float> Widen(Vector<uint> bits);

    static abstract Vector512<float> Widen(Vector512<uint> bits);

    static abstract Vector<uint> Narrow(Vector<float> value);

    static abstract Vector512<uint> Narrow(Vector512<float> value);
}

/// <summary>IEEE 754 binary16: 5 bits of exponent, 10 of fraction.</summary>
/// <remarks>
/// <para>
/// Widening: raised by 224, the highest exponent (31: infinity, NaN) becomes a single's (255); a factor brings finite
/// numbers back to the difference of the biases, 127 - 15 = 112, exactly. Subnormal numbers are made by adding and taking
/// away 0.5, whose last place is 2^-24, their unit: processors are slow at subnormal singles.
/// </para>
/// <para>
/// Narrowing: the sum with a number whose exponent is 13 higher, but at least that of 2^-1, is rounded where binary16 ends,
/// and its low bits count units of binary16's last place. Magnitudes from 2^16 on become 2^16, which is infinity's pattern.
/// </para>
/// </remarks>
internal readonly struct Float16Format : IHalfFormat
{
    private const uint SignMask = 0x8000, MagnitudeMask = 0x7FFF, SmallestNormal = 0x400, QuietNaN = 0x7E00;
    private const uint HalfBits = 126u << 23, RaisedBy = 224u << 23;
    private const float Lower = 1f / (1L << 56) / (1L << 56);

    private const uint SingleMagnitudeMask = 0x7FFF_FFFF, ExponentMask = 0x7F80_0000, TwoTo16 = 143u << 23;
    private const uint LeastExponent = 113u << 23, FractionShift = 13u << 23, Bias = FractionShift + (113u << 10);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector<float> Widen(Vector<uint> bits)
    {
        Vector<uint> magnitude = bits & Vector.Create(MagnitudeMask);
        Vector<float> normal = ((magnitude << 13) + Vector.Create(RaisedBy)).As<uint, float>() * Lower;
        Vector<uint> halfBits = Vector.Create(HalfBits);
        Vector<float> subnormal = (magnitude | halfBits).As<uint, float>() - halfBits.As<uint, float>();
        Vector<uint> isSubnormal = Vector.LessThan(magnitude, Vector.Create(SmallestNormal));
        Vector<uint> result = Vector.ConditionalSelect(isSubnormal, subnormal.As<float, uint>(), normal.As<float, uint>());
        return (result | ((bits & Vector.Create(SignMask)) << 16)).As<uint, float>();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Widen(Vector512<uint> bits)
    {
        Vector512<uint> magnitude = bits & Vector512.Create(MagnitudeMask);
        Vector512<float> normal = ((magnitude << 13) + Vector512.Create(RaisedBy)).AsSingle() * Lower;
        Vector512<uint> halfBits = Vector512.Create(HalfBits);
        Vector512<float> subnormal = (magnitude | halfBits).AsSingle() - halfBits.AsSingle();
        Vector512<uint> isSubnormal = Vector512.LessThan(magnitude, Vector512.Create(SmallestNormal));
        Vector512<uint> result = Vector512.ConditionalSelect(isSubnormal, subnormal.AsUInt32(), normal.AsUInt32());
        return (result | ((bits & Vector512.Create(SignMask)) << 16)).AsSingle();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector<uint> Narrow(Vector<float> value)
    {
        Vector<uint> bits = value.As<float, uint>();
        Vector<uint> magnitude = Vector.Min(bits & Vector.Create(SingleMagnitudeMask), Vector.Create(TwoTo16));
        Vector<uint> exponent = Vector.Max(magnitude & Vector.Create(ExponentMask), Vector.Create(LeastExponent));
        Vector<float> aligned = magnitude.As<uint, float>() + (exponent + Vector.Create(FractionShift)).As<uint, float>();
        Vector<uint> result = aligned.As<float, uint>() - exponent + (exponent >>> 13) - Vector.Create(Bias);
        Vector<uint> isNumber = Vector.Equals(value, value).As<int, uint>();
        return Vector.ConditionalSelect(isNumber, result, Vector.Create(QuietNaN)) | ((bits >>> 16) & Vector.Create(SignMask));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<uint> Narrow(Vector512<float> value)
    {
        Vector512<uint> bits = value.AsUInt32();
        Vector512<uint> magnitude = Vector512.Min(bits & Vector512.Create(SingleMagnitudeMask), Vector512.Create(TwoTo16));
        Vector512<uint> exponent = Vector512.Max(magnitude & Vector512.Create(ExponentMask), Vector512.Create(LeastExponent));
        Vector512<float> aligned = magnitude.AsSingle() + (exponent + Vector512.Create(FractionShift)).AsSingle();
        Vector512<uint> result = aligned.AsUInt32() - exponent + (exponent >>> 13) - Vector512.Create(Bias);
        Vector512<uint> isNumber = Vector512.Equals(value, value).AsUInt32();
        return Vector512.ConditionalSelect(isNumber, result, Vector512.Create(QuietNaN)) | ((bits >>> 16) & Vector512.Create(SignMask));
    }
}

/// <summary>The upper half of a single.</summary>
internal readonly struct BFloat16Format : IHalfFormat
{
    private const uint JustUnderHalf = 0x7FFF, Quiet = 0x40_0000;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector<float> Widen(Vector<uint> bits) => (bits << 16).As<uint, float>();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Widen(Vector512<uint> bits) => (bits << 16).AsSingle();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector<uint> Narrow(Vector<float> value)
    {
        Vector<uint> bits = value.As<float, uint>();
        Vector<uint> rounded = bits + Vector.Create(JustUnderHalf) + ((bits >>> 16) & Vector<uint>.One);
        Vector<uint> isNumber = Vector.Equals(value, value).As<int, uint>();
        return Vector.ConditionalSelect(isNumber, rounded, bits | Vector.Create(Quiet)) >>> 16;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<uint> Narrow(Vector512<float> value)
    {
        Vector512<uint> bits = value.AsUInt32();
        Vector512<uint> rounded = bits + Vector512.Create(JustUnderHalf) + ((bits >>> 16) & Vector512<uint>.One);
        Vector512<uint> isNumber = Vector512.Equals(value, value).AsUInt32();
        return Vector512.ConditionalSelect(isNumber, rounded, bits | Vector512.Create(Quiet)) >>> 16;
    }
}

using System.Numerics;
using System.Runtime.CompilerServices;

namespace Skein.Collectives.Reduction;

/// <summary>
/// A 16-bit floating-point format in the low half of 32-bit lanes. Widening is exact; narrowing rounds to nearest, ties
/// to even, and makes NaN quiet.
/// </summary>
internal interface IHalfFormat
{
    static abstract Vector<float> Widen(Vector<uint> bits);

    static abstract Vector<uint> Narrow(Vector<float> value);
}

/// <summary>IEEE 754 binary16: 5 bits of exponent, 10 of fraction.</summary>
/// <remarks>No step has a subnormal single as operand or result: processors are slow at those.</remarks>
internal readonly struct Float16Format : IHalfFormat
{
    // 0.5f, whose last place is 2^-24, the unit of binary16's subnormal numbers.
    private const uint HalfBits = 126 << 23;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector<float> Widen(Vector<uint> bits)
    {
        // Raised by 224, binary16's highest exponent (31: infinity, NaN) becomes a single's (255); the factor brings
        // finite numbers back to the difference of the biases, 127 - 15 = 112, exactly.
        Vector<uint> magnitude = bits & new Vector<uint>(0x7FFF);
        Vector<float> normal = Vector.As<uint, float>((magnitude << 13) + new Vector<uint>(224u << 23)) * new Vector<float>(1f / (1L << 56) / (1L << 56));

        Vector<uint> halfBits = new(HalfBits);
        Vector<float> subnormal = Vector.As<uint, float>(magnitude | halfBits) - Vector.As<uint, float>(halfBits);

        Vector<uint> isSubnormal = Vector.LessThan(magnitude, new Vector<uint>(0x400));
        Vector<uint> result = Vector.ConditionalSelect(isSubnormal, Vector.As<float, uint>(subnormal), Vector.As<float, uint>(normal));
        return Vector.As<uint, float>(result | ((bits & new Vector<uint>(0x8000)) << 16));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector<uint> Narrow(Vector<float> value)
    {
        // Everything from 2^16 on becomes 2^16, which is infinity's pattern.
        Vector<uint> bits = Vector.As<float, uint>(value);
        Vector<uint> magnitude = Vector.Min(bits & new Vector<uint>(0x7FFF_FFFF), new Vector<uint>(143 << 23));

        // Add just under half of the last place kept (exactly half when it is odd), and lower the exponent by 112.
        Vector<uint> odd = (magnitude >>> 13) & Vector<uint>.One;
        Vector<uint> normal = (magnitude + odd - new Vector<uint>((112 << 23) - 0xFFF)) >>> 13;

        Vector<uint> halfBits = new(HalfBits);
        Vector<float> aligned = Vector.As<uint, float>(magnitude) + Vector.As<uint, float>(halfBits);
        Vector<uint> subnormal = Vector.As<float, uint>(aligned) - halfBits;

        Vector<uint> result = Vector.ConditionalSelect(Vector.LessThan(magnitude, new Vector<uint>(113 << 23)), subnormal, normal);
        Vector<uint> isNumber = Vector.As<int, uint>(Vector.Equals(value, value));
        result = Vector.ConditionalSelect(isNumber, result, new Vector<uint>(0x7E00));
        return result | ((bits >>> 16) & new Vector<uint>(0x8000));
    }
}

/// <summary>The upper half of a single.</summary>
internal readonly struct BFloat16Format : IHalfFormat
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector<float> Widen(Vector<uint> bits) => Vector.As<uint, float>(bits << 16);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector<uint> Narrow(Vector<float> value)
    {
        Vector<uint> bits = Vector.As<float, uint>(value);
        Vector<uint> rounded = bits + new Vector<uint>(0x7FFF) + ((bits >>> 16) & Vector<uint>.One);
        Vector<uint> isNumber = Vector.As<int, uint>(Vector.Equals(value, value));
        return Vector.ConditionalSelect(isNumber, rounded, bits | new Vector<uint>(0x40_0000)) >>> 16;
    }
}

using System.Numerics;
using System.Numerics.Tensors;
using System.Runtime.CompilerServices;

namespace Skein.Collectives.Reduction;

/// <summary>A 16-bit floating-point format: widening is exact, narrowing rounds to nearest, ties to even.</summary>
internal unsafe interface IHalfFormat
{
    static abstract void Widen(ushort* source, float* destination, int count);

    static abstract void Narrow(float* source, ushort* destination, int count);
}

/// <summary>IEEE 754 binary16.</summary>
internal readonly unsafe struct Float16Format : IHalfFormat
{
    public static void Widen(ushort* source, float* destination, int count) =>
        TensorPrimitives.ConvertToSingle(new ReadOnlySpan<Half>(source, count), new Span<float>(destination, count));

    public static void Narrow(float* source, ushort* destination, int count) =>
        TensorPrimitives.ConvertToHalf(new ReadOnlySpan<float>(source, count), new Span<Half>(destination, count));
}

/// <summary>The upper half of a single. NaN stays NaN, made quiet.</summary>
internal readonly unsafe struct BFloat16Format : IHalfFormat
{
    public static void Widen(ushort* source, float* destination, int count)
    {
        int width = Vector<uint>.Count;
        int i = 0;
        for (; i <= count - 2 * width; i += 2 * width)
        {
            Vector.Widen(Vector.Load(source + i), out Vector<uint> low, out Vector<uint> high);
            (low << 16).Store((uint*)destination + i);
            (high << 16).Store((uint*)destination + i + width);
        }

        for (; i < count; i++) destination[i] = (float)new BFloat16(source[i]);
    }

    public static void Narrow(float* source, ushort* destination, int count)
    {
        int width = Vector<uint>.Count;
        int i = 0;
        for (; i <= count - 2 * width; i += 2 * width)
        {
            Vector.Narrow(Round(Vector.Load(source + i)), Round(Vector.Load(source + i + width))).Store(destination + i);
        }

        for (; i < count; i++) destination[i] = ((BFloat16)source[i]).Bits;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector<uint> Round(Vector<float> value)
    {
        Vector<uint> bits = Vector.As<float, uint>(value);
        Vector<uint> rounded = bits + new Vector<uint>(0x7FFF) + ((bits >>> 16) & Vector<uint>.One);
        Vector<uint> isNumber = Vector.As<int, uint>(Vector.Equals(value, value));
        return Vector.ConditionalSelect(isNumber, rounded, bits | new Vector<uint>(0x40_0000)) >>> 16;
    }
}

using System.Numerics;

namespace Skein.Collectives.Tests.Reduction;

/// <summary>
/// What a reduction must give, one element at a time, in a wider type: double rounded after every step (which equals
/// rounding the exact result) for floating types, BigInteger reduced modulo the word for integers.
/// </summary>
internal static class ScalarReference
{
    public static T Reduce<T>(ReduceOperation operation, ReadOnlySpan<T> contributions, int divisor) where T : unmanaged
    {
        if (typeof(T) == typeof(double))
        {
            return (T)(object)Fold(operation, Widen(contributions), value => value, divisor);
        }

        if (typeof(T) == typeof(float) || typeof(T) == typeof(Half) || typeof(T) == typeof(BFloat16))
        {
            return Narrow<T>(Fold(operation, Widen(contributions), value => (float)value, divisor));
        }

        BigInteger result = ToBigInteger(contributions[0]);
        foreach (T contribution in contributions[1..])
        {
            BigInteger next = ToBigInteger(contribution);
            result = operation switch
            {
                ReduceOperation.Min => BigInteger.Min(result, next),
                ReduceOperation.Max => BigInteger.Max(result, next),
                ReduceOperation.Product => result * next,
                _ => result + next,
            };
        }

        return FromBigInteger<T>(ToBigInteger(FromBigInteger<T>(result)) / divisor);
    }

    public static T Random<T>(Random random) where T : unmanaged
    {
        if (typeof(T) == typeof(byte)) return (T)(object)(byte)random.Next(256);
        if (typeof(T) == typeof(int)) return (T)(object)random.Next(int.MinValue, int.MaxValue);
        if (typeof(T) == typeof(long)) return (T)(object)random.NextInt64(long.MinValue, long.MaxValue);
        double[] special = [0.0, -0.0, double.NaN, double.PositiveInfinity, double.NegativeInfinity, 1e-45, 6e-8, 65504, 3.4e38, 1, -1];
        double value = random.Next(10) == 0
            ? special[random.Next(special.Length)]
            : (random.NextDouble() - 0.5) * Math.Pow(2, random.Next(-12, 12));
        return Narrow<T>(value);
    }

    /// <summary>The value's bits, with every NaN alike: which payload survives is the processor's choice.</summary>
    public static long Bits<T>(T value) where T : unmanaged => value switch
    {
        float f => float.IsNaN(f) ? -1 : BitConverter.SingleToUInt32Bits(f),
        double d => double.IsNaN(d) ? -1 : BitConverter.DoubleToInt64Bits(d),
        Half h => Half.IsNaN(h) ? -1 : BitConverter.HalfToUInt16Bits(h),
        BFloat16 b => float.IsNaN((float)b) ? -1 : b.Bits,
        _ => (long)ToBigInteger(value),
    };

    private static double Fold(ReduceOperation operation, double[] contributions, Func<double, double> round, int divisor)
    {
        double result = contributions[0];
        foreach (double next in contributions.AsSpan(1))
        {
            result = round(operation switch
            {
                ReduceOperation.Min => Math.Min(result, next),
                ReduceOperation.Max => Math.Max(result, next),
                ReduceOperation.Product => result * next,
                _ => result + next,
            });
        }

        return round(result / divisor);
    }

    private static double[] Widen<T>(ReadOnlySpan<T> values) where T : unmanaged
    {
        double[] wide = new double[values.Length];
        for (int i = 0; i < wide.Length; i++)
        {
            wide[i] = values[i] switch { float f => f, double d => d, Half h => (double)h, BFloat16 b => (float)b, _ => throw new NotSupportedException() };
        }

        return wide;
    }

    private static T Narrow<T>(double value) where T : unmanaged
    {
        if (typeof(T) == typeof(float)) return (T)(object)(float)value;
        if (typeof(T) == typeof(Half)) return (T)(object)(Half)(float)value;
        if (typeof(T) == typeof(BFloat16)) return (T)(object)(BFloat16)(float)value;
        return (T)(object)value;
    }

    private static BigInteger ToBigInteger<T>(T value) where T : unmanaged =>
        value switch { byte b => b, int i => i, long l => l, _ => throw new NotSupportedException() };

    private static T FromBigInteger<T>(BigInteger value) where T : unmanaged
    {
        if (typeof(T) == typeof(byte)) return (T)(object)byte.CreateTruncating(value);
        if (typeof(T) == typeof(int)) return (T)(object)int.CreateTruncating(value);
        return (T)(object)long.CreateTruncating(value);
    }
}

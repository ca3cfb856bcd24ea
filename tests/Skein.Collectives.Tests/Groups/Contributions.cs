using Skein.Collectives.Tests.Reduction;

namespace Skein.Collectives.Tests.Groups;

/// <summary>
/// What each rank contributes to a collective: a function of rank and index, so that every rank can work out what all
/// others hold. The values are small, so that every order of adding or multiplying gives the same exact result.
/// </summary>
internal static class Contributions
{
    private static readonly int[] Factors = [1, 2, -1, 1, 2, 1, -2];

    public static T Value<T>(int rank, long index, ReduceOperation operation = ReduceOperation.Sum) where T : unmanaged
    {
        int mixed = (int)(((index + 1) * 7919 + rank * 104_729) % 1009);
        int value = operation == ReduceOperation.Product ? Factors[mixed % Factors.Length] : mixed % 15 - 5;
        if (typeof(T) == typeof(byte)) return (T)(object)(byte)(operation == ReduceOperation.Product ? value : value + 5);
        if (typeof(T) == typeof(int)) return (T)(object)value;
        if (typeof(T) == typeof(long)) return (T)(object)(long)value;
        if (typeof(T) == typeof(float)) return (T)(object)(float)value;
        if (typeof(T) == typeof(double)) return (T)(object)(double)value;
        if (typeof(T) == typeof(Half)) return (T)(object)(Half)value;
        return (T)(object)(BFloat16)value;
    }

    public static T[] Of<T>(int rank, int count, ReduceOperation operation = ReduceOperation.Sum, long start = 0) where T : unmanaged
    {
        T[] values = new T[count];
        for (int i = 0; i < count; i++) values[i] = Value<T>(rank, start + i, operation);
        return values;
    }

    /// <summary>What reducing the contributions of all ranks gives, element by element.</summary>
    public static T[] Reduced<T>(int worldSize, int count, ReduceOperation operation) where T : unmanaged
    {
        T[] result = new T[count], column = new T[worldSize];
        int divisor = operation == ReduceOperation.Average ? worldSize : 1;
        for (int i = 0; i < count; i++)
        {
            for (int rank = 0; rank < worldSize; rank++) column[rank] = Value<T>(rank, i, operation);
            result[i] = ScalarReference.Reduce<T>(operation, column, divisor);
        }

        return result;
    }

    /// <summary>Compares bit by bit, apart from the sign of zero, which the order of adding may change.</summary>
    public static void AssertEqual<T>(ReadOnlySpan<T> expected, ReadOnlySpan<T> actual, string what) where T : unmanaged
    {
        if (expected.SequenceEqual(actual)) return;
        Assert.True(expected.Length == actual.Length, $"{what}: {actual.Length} elements instead of {expected.Length}");
        for (int i = 0; i < expected.Length; i++)
        {
            if (!expected[i].Equals(actual[i])) Assert.Fail($"{what}: [{i}] of {expected.Length} is {actual[i]} instead of {expected[i]}");
        }
    }
}

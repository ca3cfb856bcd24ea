using System.Numerics;
using System.Runtime.CompilerServices;

namespace Skein.Collectives.Reduction;

/// <summary>A way to combine two contributions, lane by lane. Every implementation is commutative.</summary>
internal interface IReduction<T> where T : unmanaged
{
    static abstract Vector<T> Combine(Vector<T> left, Vector<T> right);
}

internal readonly struct Sum<T> : IReduction<T> where T : unmanaged
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector<T> Combine(Vector<T> left, Vector<T> right) => left + right;
}

internal readonly struct Product<T> : IReduction<T> where T : unmanaged
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector<T> Combine(Vector<T> left, Vector<T> right) => left * right;
}

/// <summary>IEEE 754-2019 minimum: NaN if either is NaN, and -0 is below +0.</summary>
internal readonly struct Minimum<T> : IReduction<T> where T : unmanaged
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector<T> Combine(Vector<T> left, Vector<T> right) => Vector.Min(left, right);
}

/// <summary>IEEE 754-2019 maximum: NaN if either is NaN, and +0 is above -0.</summary>
internal readonly struct Maximum<T> : IReduction<T> where T : unmanaged
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector<T> Combine(Vector<T> left, Vector<T> right) => Vector.Max(left, right);
}

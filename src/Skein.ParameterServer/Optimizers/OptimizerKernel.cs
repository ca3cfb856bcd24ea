using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Skein.ParameterServer;

/// <summary>
/// One update of an optimizer, written for a vector of elements that do not depend on one another. Of the three vectors
/// of state only the first <see cref="StateVectors"/> are kept from update to update.
/// </summary>
internal interface IUpdateFormula<T> where T : unmanaged
{
    static abstract int StateVectors { get; }

    void Update(ref Vector<T> parameter, Vector<T> gradient, ref Vector<T> first, ref Vector<T> second, ref Vector<T> third);
}

/// <summary>Runs a formula over arrays in one pass over memory. Thread-safe.</summary>
internal static class OptimizerKernel
{
    /// <summary>
    /// Updates parameters and state, which are as long as the gradient; the state that the formula does not have is empty.
    /// An element's result depends neither on its position nor on the length.
    /// </summary>
    public static void Update<T, TFormula>(
        TFormula formula, Span<T> parameters, ReadOnlySpan<T> gradient, Span<T> first = default, Span<T> second = default, Span<T> third = default)
        where T : unmanaged
        where TFormula : struct, IUpdateFormula<T>
    {
        Run(formula, Vectors(parameters), MemoryMarshal.Cast<T, Vector<T>>(gradient), Vectors(first), Vectors(second), Vectors(third));

        // Padded to a vector, the rest goes through the same instructions.
        int rest = gradient.Length % Vector<T>.Count;
        if (rest == 0) return;
        Span<Vector<T>> padded = stackalloc Vector<T>[5];
        padded.Clear();
        Copy(parameters, rest, padded, 0);
        gradient[^rest..].CopyTo(MemoryMarshal.Cast<Vector<T>, T>(padded[1..]));
        Copy(first, rest, padded, 2);
        Copy(second, rest, padded, 3);
        Copy(third, rest, padded, 4);
        Run(formula, padded[..1], padded.Slice(1, 1), padded.Slice(2, 1), padded.Slice(3, 1), padded.Slice(4, 1));
        CopyBack(padded, 0, parameters, rest);
        CopyBack(padded, 2, first, rest);
        CopyBack(padded, 3, second, rest);
        CopyBack(padded, 4, third, rest);
    }

    private static void Run<T, TFormula>(
        TFormula formula, Span<Vector<T>> p, ReadOnlySpan<Vector<T>> g, Span<Vector<T>> first, Span<Vector<T>> second, Span<Vector<T>> third)
        where T : unmanaged
        where TFormula : struct, IUpdateFormula<T>
    {
        Vector<T> none = default;
        for (int i = 0; i < g.Length; i++)
        {
            formula.Update(
                ref p[i], g[i],
                ref TFormula.StateVectors > 0 ? ref first[i] : ref none,
                ref TFormula.StateVectors > 1 ? ref second[i] : ref none,
                ref TFormula.StateVectors > 2 ? ref third[i] : ref none);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Span<Vector<T>> Vectors<T>(Span<T> values) where T : unmanaged => MemoryMarshal.Cast<T, Vector<T>>(values);

    private static void Copy<T>(Span<T> values, int rest, Span<Vector<T>> padded, int index) where T : unmanaged
    {
        if (!values.IsEmpty) values[^rest..].CopyTo(MemoryMarshal.Cast<Vector<T>, T>(padded[index..]));
    }

    private static void CopyBack<T>(Span<Vector<T>> padded, int index, Span<T> values, int rest) where T : unmanaged
    {
        if (!values.IsEmpty) MemoryMarshal.Cast<Vector<T>, T>(padded[index..])[..rest].CopyTo(values[^rest..]);
    }
}

using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Skein.Collectives.Reduction;

/// <summary>Reduces buffers of a type that is combined in its own precision.</summary>
internal static unsafe class VectorLoop<T, TReduction>
    where T : unmanaged, INumberBase<T>
    where TReduction : IReduction<T>
{
    public static void Run(T* destination, T** sources, int sourceCount, nint count, int divisor)
    {
        if (typeof(T) == typeof(byte) && divisor > byte.MaxValue)
        {
            NativeMemory.Clear(destination, (nuint)count);
            return;
        }

        Vector<T> divide = new(T.CreateTruncating(divisor));
        int width = Vector<T>.Count;
        nint i = 0;

        // Four accumulators hide the latency of the operation and spread the cost of walking the sources.
        for (; i <= count - 4 * width; i += 4 * width)
        {
            T* source = sources[0] + i;
            Vector<T> a = Vector.Load(source);
            Vector<T> b = Vector.Load(source + width);
            Vector<T> c = Vector.Load(source + 2 * width);
            Vector<T> d = Vector.Load(source + 3 * width);
            for (int s = 1; s < sourceCount; s++)
            {
                source = sources[s] + i;
                a = TReduction.Combine(a, Vector.Load(source));
                b = TReduction.Combine(b, Vector.Load(source + width));
                c = TReduction.Combine(c, Vector.Load(source + 2 * width));
                d = TReduction.Combine(d, Vector.Load(source + 3 * width));
            }

            if (divisor > 1)
            {
                a /= divide;
                b /= divide;
                c /= divide;
                d /= divide;
            }

            T* target = destination + i;
            a.Store(target);
            b.Store(target + width);
            c.Store(target + 2 * width);
            d.Store(target + 3 * width);
        }

        // The rest goes through the same vector instructions, so that a result cannot depend on the position.
        for (; i < count; i += width)
        {
            int lanes = (int)nint.Min(width, count - i);
            Vector<T> result = LoadLanes(sources[0] + i, lanes);
            for (int s = 1; s < sourceCount; s++) result = TReduction.Combine(result, LoadLanes(sources[s] + i, lanes));
            if (divisor > 1) result /= divide;
            if (lanes == width) result.Store(destination + i);
            else Unsafe.CopyBlockUnaligned(destination + i, &result, (uint)(lanes * sizeof(T)));
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector<T> LoadLanes(T* source, int lanes)
    {
        if (lanes == Vector<T>.Count) return Vector.Load(source);
        Vector<T> vector = Vector<T>.Zero;
        Unsafe.CopyBlockUnaligned(&vector, source, (uint)(lanes * sizeof(T)));
        return vector;
    }
}

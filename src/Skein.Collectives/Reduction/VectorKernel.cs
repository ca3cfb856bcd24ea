using System.Numerics;
using System.Runtime.InteropServices;

namespace Skein.Collectives.Reduction;

/// <summary>Reduces buffers of a type that is combined in its own precision.</summary>
internal readonly unsafe struct VectorKernel<T, TReduction> : IKernel<T>
    where T : unmanaged, INumberBase<T>
    where TReduction : IReduction<T>
{
    // Four accumulators hide the latency of the operation and spread the cost of walking the sources.
    public static int BlockLength => 4 * Vector<T>.Count;

    public static void Run(T* destination, T** sources, int sourceCount, nint count, int divisor)
    {
        if (typeof(T) == typeof(byte) && divisor > byte.MaxValue)
        {
            NativeMemory.Clear(destination, (nuint)count);
            return;
        }

        Vector<T> divide = new(T.CreateTruncating(divisor));
        int width = Vector<T>.Count;
        for (nint i = 0; i < count; i += BlockLength)
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
    }
}

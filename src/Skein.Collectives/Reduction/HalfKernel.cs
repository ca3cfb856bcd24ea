using System.Numerics;
using System.Runtime.CompilerServices;

namespace Skein.Collectives.Reduction;

/// <summary>Reduces buffers of a 16-bit floating-point type in single precision, and rounds once.</summary>
internal readonly unsafe struct HalfKernel<TFormat, TReduction> : IKernel<ushort>
    where TFormat : IHalfFormat
    where TReduction : IReduction<float>
{
    public static int BlockLength => Vector<ushort>.Count;

    public static void Run(ushort* destination, ushort** sources, int sourceCount, nint count, int divisor)
    {
        Vector<float> divide = new(divisor);
        for (nint i = 0; i < count; i += BlockLength)
        {
            Load(sources[0] + i, out Vector<float> low, out Vector<float> high);
            for (int s = 1; s < sourceCount; s++)
            {
                Load(sources[s] + i, out Vector<float> nextLow, out Vector<float> nextHigh);
                low = TReduction.Combine(low, nextLow);
                high = TReduction.Combine(high, nextHigh);
            }

            if (divisor > 1)
            {
                low /= divide;
                high /= divide;
            }

            Vector.Narrow(TFormat.Narrow(low), TFormat.Narrow(high)).Store(destination + i);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Load(ushort* source, out Vector<float> low, out Vector<float> high)
    {
        Vector.Widen(Vector.Load(source), out Vector<uint> lowBits, out Vector<uint> highBits);
        low = TFormat.Widen(lowBits);
        high = TFormat.Widen(highBits);
    }
}

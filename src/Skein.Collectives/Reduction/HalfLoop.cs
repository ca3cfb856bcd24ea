using System.Runtime.CompilerServices;

namespace Skein.Collectives.Reduction;

/// <summary>
/// Reduces buffers of a 16-bit floating-point type: block by block the sources are widened to single precision,
/// combined in the first-level cache, and rounded once.
/// </summary>
internal static unsafe class HalfLoop<TFormat, TReduction>
    where TFormat : IHalfFormat
    where TReduction : IReduction<float>
{
    private const int BlockLength = 1024;

    [SkipLocalsInit]
    public static void Run(ushort* destination, ushort** sources, int sourceCount, nint count, int divisor)
    {
        float* accumulator = stackalloc float[BlockLength];
        float* operand = stackalloc float[BlockLength];
        float** both = stackalloc float*[] { accumulator, operand };
        for (nint i = 0; i < count; i += BlockLength)
        {
            int length = (int)nint.Min(BlockLength, count - i);
            TFormat.Widen(sources[0] + i, accumulator, length);
            for (int s = 1; s < sourceCount; s++)
            {
                TFormat.Widen(sources[s] + i, operand, length);
                VectorLoop<float, TReduction>.Run(accumulator, both, 2, length, s == sourceCount - 1 ? divisor : 1);
            }

            if (sourceCount == 1) VectorLoop<float, TReduction>.Run(accumulator, both, 1, length, divisor);
            TFormat.Narrow(accumulator, destination + i, length);
        }
    }
}

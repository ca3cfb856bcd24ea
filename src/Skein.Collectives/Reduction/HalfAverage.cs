using System.Numerics;
using System.Runtime.CompilerServices;

namespace Skein.Collectives.Reduction;

/// <summary>
/// One step of an average over ranks in a 16-bit floating-point type. A partial result stands for the sum of some ranks'
/// contributions and is kept divided by the smallest power of two that is not below their number: so it is never larger
/// than the largest contribution, where the sum of four times 30,000 would be infinite in binary16.
/// </summary>
/// <remarks>
/// Powers of two lose nothing, except in binary16's subnormal numbers. Each step rounds once, to nearest: after the last one
/// the average is off by at most a unit in the last place of the largest contribution for each step.
/// </remarks>
internal static unsafe class HalfAverage
{
    /// <summary>accumulator[i] = accumulator[i] and operand[i] together.</summary>
    /// <param name="type">Float16 or BFloat16.</param>
    /// <param name="accumulator">A partial result, replaced.</param>
    /// <param name="operand">The partial result of other ranks.</param>
    /// <param name="count">Elements.</param>
    /// <param name="own">How many ranks the accumulator stands for.</param>
    /// <param name="arriving">How many the operand stands for.</param>
    /// <param name="ranks">How many there are: when all are in, the accumulator becomes the average.</param>
    public static void Accumulate(ElementType type, ushort* accumulator, ushort* operand, nint count, int own, int arriving, int ranks)
    {
        int held = own + arriving;
        float divisor = held == ranks ? ranks : PowerFor(held);
        if (type == ElementType.Float16) Run<Float16Format>(accumulator, operand, count, PowerFor(own), PowerFor(arriving), divisor);
        else Run<BFloat16Format>(accumulator, operand, count, PowerFor(own), PowerFor(arriving), divisor);
    }

    private static float PowerFor(int ranks) => BitOperations.RoundUpToPowerOf2((uint)ranks);

    private static void Run<TFormat>(ushort* accumulator, ushort* operand, nint count, float own, float arriving, float divisor)
        where TFormat : IHalfFormat
    {
        int block = Vector<ushort>.Count;
        Vector<float> left = new(own), right = new(arriving), divide = new(divisor);
        nint i = 0;
        for (; i <= count - block; i += block) Step<TFormat>(accumulator + i, operand + i, left, right, divide);
        if (i == count) return;

        // Padded to a block, the rest goes through the same instructions: no result depends on the position.
        ushort* padded = stackalloc ushort[2 * block];
        uint bytes = (uint)((count - i) * sizeof(ushort));
        Unsafe.CopyBlockUnaligned(padded, accumulator + i, bytes);
        Unsafe.CopyBlockUnaligned(padded + block, operand + i, bytes);
        Step<TFormat>(padded, padded + block, left, right, divide);
        Unsafe.CopyBlockUnaligned(accumulator + i, padded, bytes);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Step<TFormat>(ushort* accumulator, ushort* operand, Vector<float> left, Vector<float> right, Vector<float> divide)
        where TFormat : IHalfFormat
    {
        Vector.Widen(Vector.Load(accumulator), out Vector<uint> low, out Vector<uint> high);
        Vector.Widen(Vector.Load(operand), out Vector<uint> operandLow, out Vector<uint> operandHigh);
        Vector.Narrow(
            TFormat.Narrow(((TFormat.Widen(low) * left) + (TFormat.Widen(operandLow) * right)) / divide),
            TFormat.Narrow(((TFormat.Widen(high) * left) + (TFormat.Widen(operandHigh) * right)) / divide)).Store(accumulator);
    }
}

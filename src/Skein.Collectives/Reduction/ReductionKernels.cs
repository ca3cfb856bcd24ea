using System.Numerics;
using System.Runtime.CompilerServices;

namespace Skein.Collectives.Reduction;

/// <summary>
/// Combines buffers element by element. Addresses need no alignment, a count may be anything from 0 up, and an element's
/// result depends neither on its position nor on the vector width. Thread-safe.
/// </summary>
internal static unsafe class ReductionKernels
{
    /// <summary>
    /// destination[i] = sources[0][i] ⊕ sources[1][i] ⊕ … from left to right, in one pass over memory. Half and BFloat16
    /// are combined in single precision over all sources and rounded once; integers wrap.
    /// </summary>
    /// <remarks>
    /// The destination may be exactly one of the sources, but must not overlap one in part. The divisor is over 1 only in
    /// the last step of an average; integers then truncate towards zero.
    /// </remarks>
    public static void Reduce(
        ElementType type, ReduceOperation operation, void* destination, ReadOnlySpan<nint> sources, nint count, int divisor = 1)
    {
        ArgumentOutOfRangeException.ThrowIfZero(sources.Length, nameof(sources));
        ArgumentOutOfRangeException.ThrowIfNegative(count);
        ArgumentOutOfRangeException.ThrowIfLessThan(divisor, 1);
        delegate*<void*, nint*, int, nint, int, void> kernel = type switch
        {
            ElementType.Float32 => Kernel<float>(operation),
            ElementType.Float64 => Kernel<double>(operation),
            ElementType.Int32 => Kernel<int>(operation),
            ElementType.Int64 => Kernel<long>(operation),
            ElementType.UInt8 => Kernel<byte>(operation),
            ElementType.Float16 => HalfKernel<Float16Format>(operation),
            ElementType.BFloat16 => HalfKernel<BFloat16Format>(operation),
            _ => throw new ArgumentOutOfRangeException(nameof(type), type, null),
        };
        fixed (nint* addresses = sources) kernel(destination, addresses, sources.Length, count, divisor);
    }

    /// <summary>accumulator[i] = accumulator[i] ⊕ operand[i]: the inner step of a ring.</summary>
    public static void Accumulate(
        ElementType type, ReduceOperation operation, void* accumulator, void* operand, nint count, int divisor = 1) =>
        Reduce(type, operation, accumulator, [(nint)accumulator, (nint)operand], count, divisor);

    /// <summary>buffer[i] = buffer[i] / divisor; integers truncate towards zero.</summary>
    public static void Divide(ElementType type, void* buffer, nint count, int divisor) =>
        Reduce(type, ReduceOperation.Average, buffer, [(nint)buffer], count, divisor);

    private static delegate*<void*, nint*, int, nint, int, void> Kernel<T>(ReduceOperation operation)
        where T : unmanaged, INumberBase<T> => operation switch
        {
            ReduceOperation.Sum or ReduceOperation.Average => &Run<T, VectorKernel<T, Sum<T>>>,
            ReduceOperation.Min => &Run<T, VectorKernel<T, Minimum<T>>>,
            ReduceOperation.Max => &Run<T, VectorKernel<T, Maximum<T>>>,
            ReduceOperation.Product => &Run<T, VectorKernel<T, Product<T>>>,
            _ => throw new ArgumentOutOfRangeException(nameof(operation), operation, null),
        };

    private static delegate*<void*, nint*, int, nint, int, void> HalfKernel<TFormat>(ReduceOperation operation)
        where TFormat : struct, IHalfFormat => operation switch
        {
            ReduceOperation.Sum or ReduceOperation.Average => &Run<ushort, HalfKernel<TFormat, Sum<float>>>,
            ReduceOperation.Min => &Run<ushort, HalfKernel<TFormat, Minimum<float>>>,
            ReduceOperation.Max => &Run<ushort, HalfKernel<TFormat, Maximum<float>>>,
            ReduceOperation.Product => &Run<ushort, HalfKernel<TFormat, Product<float>>>,
            _ => throw new ArgumentOutOfRangeException(nameof(operation), operation, null),
        };

    private static void Run<T, TKernel>(void* destination, nint* sources, int sourceCount, nint count, int divisor)
        where T : unmanaged
        where TKernel : struct, IKernel<T>
    {
        nint rest = count % TKernel.BlockLength;
        nint whole = count - rest;
        TKernel.Run((T*)destination, (T**)sources, sourceCount, whole, divisor);
        if (rest == 0) return;

        // Padded to a block, the rest goes through the same instructions: no result depends on the position.
        T* padded = stackalloc T[sourceCount * TKernel.BlockLength];
        T** blocks = stackalloc T*[sourceCount];
        uint bytes = (uint)(rest * sizeof(T));
        for (int s = 0; s < sourceCount; s++)
        {
            blocks[s] = padded + s * TKernel.BlockLength;
            Unsafe.CopyBlockUnaligned(blocks[s], (T*)sources[s] + whole, bytes);
        }

        TKernel.Run(padded, blocks, sourceCount, TKernel.BlockLength, divisor);
        Unsafe.CopyBlockUnaligned((T*)destination + whole, padded, bytes);
    }
}

using System.Numerics;

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
        fixed (nint* addresses = sources)
        {
            switch (type)
            {
                case ElementType.Float32: Reduce((float*)destination, addresses, sources.Length); break;
                case ElementType.Float64: Reduce((double*)destination, addresses, sources.Length); break;
                case ElementType.Int32: Reduce((int*)destination, addresses, sources.Length); break;
                case ElementType.Int64: Reduce((long*)destination, addresses, sources.Length); break;
                case ElementType.UInt8: Reduce((byte*)destination, addresses, sources.Length); break;
                case ElementType.Float16: ReduceHalves<Float16Format>((ushort*)destination, addresses, sources.Length); break;
                case ElementType.BFloat16: ReduceHalves<BFloat16Format>((ushort*)destination, addresses, sources.Length); break;
                default: throw new ArgumentOutOfRangeException(nameof(type), type, null);
            }
        }

        void Reduce<T>(T* to, nint* from, int sourceCount) where T : unmanaged, INumberBase<T>
        {
            switch (operation)
            {
                case ReduceOperation.Sum or ReduceOperation.Average: VectorLoop<T, Sum<T>>.Run(to, (T**)from, sourceCount, count, divisor); break;
                case ReduceOperation.Min: VectorLoop<T, Minimum<T>>.Run(to, (T**)from, sourceCount, count, divisor); break;
                case ReduceOperation.Max: VectorLoop<T, Maximum<T>>.Run(to, (T**)from, sourceCount, count, divisor); break;
                case ReduceOperation.Product: VectorLoop<T, Product<T>>.Run(to, (T**)from, sourceCount, count, divisor); break;
                default: throw new ArgumentOutOfRangeException(nameof(operation), operation, null);
            }
        }

        void ReduceHalves<TFormat>(ushort* to, nint* from, int sourceCount) where TFormat : IHalfFormat
        {
            switch (operation)
            {
                case ReduceOperation.Sum or ReduceOperation.Average: HalfLoop<TFormat, Sum<float>>.Run(to, (ushort**)from, sourceCount, count, divisor); break;
                case ReduceOperation.Min: HalfLoop<TFormat, Minimum<float>>.Run(to, (ushort**)from, sourceCount, count, divisor); break;
                case ReduceOperation.Max: HalfLoop<TFormat, Maximum<float>>.Run(to, (ushort**)from, sourceCount, count, divisor); break;
                case ReduceOperation.Product: HalfLoop<TFormat, Product<float>>.Run(to, (ushort**)from, sourceCount, count, divisor); break;
                default: throw new ArgumentOutOfRangeException(nameof(operation), operation, null);
            }
        }
    }

    /// <summary>accumulator[i] = accumulator[i] ⊕ operand[i]: the inner step of a ring.</summary>
    public static void Accumulate(
        ElementType type, ReduceOperation operation, void* accumulator, void* operand, nint count, int divisor = 1) =>
        Reduce(type, operation, accumulator, [(nint)accumulator, (nint)operand], count, divisor);

    /// <summary>buffer[i] = buffer[i] / divisor; integers truncate towards zero.</summary>
    public static void Divide(ElementType type, void* buffer, nint count, int divisor) =>
        Reduce(type, ReduceOperation.Average, buffer, [(nint)buffer], count, divisor);
}

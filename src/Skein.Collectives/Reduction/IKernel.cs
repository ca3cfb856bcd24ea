namespace Skein.Collectives.Reduction;

/// <summary>Reduces whole blocks of elements; <see cref="ReductionKernels"/> pads what is left over to one.</summary>
internal unsafe interface IKernel<T> where T : unmanaged
{
    /// <summary>The number of elements in a block.</summary>
    static abstract int BlockLength { get; }

    /// <summary>As <see cref="ReductionKernels.Reduce"/>, for a count that is a multiple of <see cref="BlockLength"/>.</summary>
    static abstract void Run(T* destination, T** sources, int sourceCount, nint count, int divisor);
}

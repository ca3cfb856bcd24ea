namespace Skein.Collectives;

public sealed unsafe partial class ProcessGroup
{
    /// <summary>Combines the buffers of all ranks, element by element, into every rank's buffer.</summary>
    /// <param name="buffer">The contribution, replaced by the result: bitwise equal on all ranks. The same length on every rank, 0 included.</param>
    /// <param name="operation">How to combine.</param>
    public void AllReduce<T>(Span<T> buffer, ReduceOperation operation = ReduceOperation.Sum) where T : unmanaged
    {
        fixed (T* pointer = buffer) Run(AllReduceCall<T>(pointer, buffer.Length, operation));
    }

    /// <inheritdoc cref="AllReduce{T}"/>
    public CollectiveHandle AllReduceAsync<T>(Memory<T> buffer, ReduceOperation operation = ReduceOperation.Sum) where T : unmanaged =>
        Start<T>(AllReduceCall<T>(null, buffer.Length, operation), default, buffer);

    /// <summary>
    /// Combines the inputs of all ranks, and leaves each rank its part: the input is cut into one part per rank, where
    /// the first ranks get one element more if it does not divide.
    /// </summary>
    /// <param name="input">The contribution, the same length on every rank; left as it is.</param>
    /// <param name="output">Receives this rank's part.</param>
    /// <param name="operation">How to combine.</param>
    /// <exception cref="ArgumentException">The output has not the length of this rank's part.</exception>
    public void ReduceScatter<T>(ReadOnlySpan<T> input, Span<T> output, ReduceOperation operation = ReduceOperation.Sum) where T : unmanaged
    {
        fixed (T* source = input, target = output)
        {
            Run(ReduceScatterCall<T>(source, input.Length, target, output.Length, operation));
        }
    }

    /// <inheritdoc cref="ReduceScatter{T}"/>
    public CollectiveHandle ReduceScatterAsync<T>(
        ReadOnlyMemory<T> input, Memory<T> output, ReduceOperation operation = ReduceOperation.Sum) where T : unmanaged =>
        Start(ReduceScatterCall<T>(null, input.Length, null, output.Length, operation), input, output);

    /// <summary>
    /// Collects the inputs of all ranks, one after the other in rank order, on every rank. The output is cut into one
    /// part per rank, where the first ranks get one element more if it does not divide.
    /// </summary>
    /// <param name="input">This rank's part.</param>
    /// <param name="output">Receives all parts; the same length on every rank.</param>
    /// <exception cref="ArgumentException">The input has not the length of this rank's part.</exception>
    public void AllGather<T>(ReadOnlySpan<T> input, Span<T> output) where T : unmanaged => AllGather(input, output, default);

    /// <inheritdoc cref="AllGather{T}(ReadOnlySpan{T}, Span{T})"/>
    /// <param name="input">This rank's part.</param>
    /// <param name="output">Receives all parts; its length is the sum of the counts.</param>
    /// <param name="counts">The elements of each rank's part, the same on every rank.</param>
    public void AllGather<T>(ReadOnlySpan<T> input, Span<T> output, ReadOnlySpan<int> counts) where T : unmanaged
    {
        fixed (T* source = input, target = output)
        {
            Run(AllGatherCall<T>(source, input.Length, target, output.Length, counts));
        }
    }

    /// <inheritdoc cref="AllGather{T}(ReadOnlySpan{T}, Span{T}, ReadOnlySpan{int})"/>
    public CollectiveHandle AllGatherAsync<T>(
        ReadOnlyMemory<T> input, Memory<T> output, ReadOnlySpan<int> counts = default) where T : unmanaged =>
        Start(AllGatherCall<T>(null, input.Length, null, output.Length, counts), input, output);

    /// <summary>Copies the root's buffer to all ranks.</summary>
    /// <param name="buffer">Sent by the root, filled on the others; the same length on every rank.</param>
    /// <param name="root">The rank that sends.</param>
    public void Broadcast<T>(Span<T> buffer, int root = 0) where T : unmanaged
    {
        fixed (T* pointer = buffer) Run(RootedCall<T>(CollectiveKind.Broadcast, null, pointer, buffer.Length, root));
    }

    /// <inheritdoc cref="Broadcast{T}"/>
    public CollectiveHandle BroadcastAsync<T>(Memory<T> buffer, int root = 0) where T : unmanaged =>
        Start<T>(RootedCall<T>(CollectiveKind.Broadcast, null, null, buffer.Length, root), default, buffer);

    /// <summary>Combines the buffers of all ranks into the root's buffer. The other ranks' buffers end with partial results.</summary>
    /// <param name="buffer">The contribution; the same length on every rank.</param>
    /// <param name="root">The rank that gets the result.</param>
    /// <param name="operation">How to combine.</param>
    public void Reduce<T>(Span<T> buffer, int root = 0, ReduceOperation operation = ReduceOperation.Sum) where T : unmanaged
    {
        fixed (T* pointer = buffer) Run(RootedCall<T>(CollectiveKind.Reduce, null, pointer, buffer.Length, root, operation));
    }

    /// <inheritdoc cref="Reduce{T}"/>
    public CollectiveHandle ReduceAsync<T>(Memory<T> buffer, int root = 0, ReduceOperation operation = ReduceOperation.Sum)
        where T : unmanaged =>
        Start<T>(RootedCall<T>(CollectiveKind.Reduce, null, null, buffer.Length, root, operation), default, buffer);

    /// <summary>Collects the inputs of all ranks on the root, in rank order.</summary>
    /// <param name="input">This rank's part; the same length on every rank.</param>
    /// <param name="output">On the root, <see cref="WorldSize"/> times as long as the input; unused on the others.</param>
    /// <param name="root">The rank that collects.</param>
    public void Gather<T>(ReadOnlySpan<T> input, Span<T> output, int root = 0) where T : unmanaged
    {
        fixed (T* source = input, target = output) Run(GatherCall<T>(source, input.Length, target, output.Length, root));
    }

    /// <inheritdoc cref="Gather{T}"/>
    public CollectiveHandle GatherAsync<T>(ReadOnlyMemory<T> input, Memory<T> output, int root = 0) where T : unmanaged =>
        Start(GatherCall<T>(null, input.Length, null, output.Length, root), input, output);

    /// <summary>Cuts the root's input into equal parts and gives each rank one.</summary>
    /// <param name="input">On the root, <see cref="WorldSize"/> times as long as the output; unused on the others.</param>
    /// <param name="output">Receives this rank's part; the same length on every rank.</param>
    /// <param name="root">The rank that gives.</param>
    public void Scatter<T>(ReadOnlySpan<T> input, Span<T> output, int root = 0) where T : unmanaged
    {
        fixed (T* source = input, target = output) Run(ScatterCall<T>(source, input.Length, target, output.Length, root));
    }

    /// <inheritdoc cref="Scatter{T}"/>
    public CollectiveHandle ScatterAsync<T>(ReadOnlyMemory<T> input, Memory<T> output, int root = 0) where T : unmanaged =>
        Start(ScatterCall<T>(null, input.Length, null, output.Length, root), input, output);

    /// <summary>Every rank gives each rank a part of its input, and gets a part from each, in rank order.</summary>
    /// <param name="input">One part per rank, near-equal: the first ranks get one element more if it does not divide. The same length on every rank.</param>
    /// <param name="output"><see cref="WorldSize"/> times as long as this rank's part.</param>
    public void AllToAll<T>(ReadOnlySpan<T> input, Span<T> output) where T : unmanaged => AllToAll(input, output, default, default);

    /// <inheritdoc cref="AllToAll{T}(ReadOnlySpan{T}, Span{T})"/>
    /// <param name="input">One part per rank, one after the other.</param>
    /// <param name="output">Receives one part per rank, one after the other.</param>
    /// <param name="sendCounts">The elements for each rank.</param>
    /// <param name="receiveCounts">The elements from each rank: what that rank sends to this one.</param>
    public void AllToAll<T>(
        ReadOnlySpan<T> input, Span<T> output, ReadOnlySpan<int> sendCounts, ReadOnlySpan<int> receiveCounts) where T : unmanaged
    {
        fixed (T* source = input, target = output)
        {
            Run(AllToAllCall<T>(source, input.Length, target, output.Length, sendCounts, receiveCounts));
        }
    }

    /// <inheritdoc cref="AllToAll{T}(ReadOnlySpan{T}, Span{T}, ReadOnlySpan{int}, ReadOnlySpan{int})"/>
    public CollectiveHandle AllToAllAsync<T>(
        ReadOnlyMemory<T> input, Memory<T> output, ReadOnlySpan<int> sendCounts = default, ReadOnlySpan<int> receiveCounts = default)
        where T : unmanaged =>
        Start(AllToAllCall<T>(null, input.Length, null, output.Length, sendCounts, receiveCounts), input, output);

    /// <summary>Returns when all ranks have called it.</summary>
    public void Barrier() => Run(NewCall(CollectiveKind.Barrier, ElementType.UInt8));

    /// <inheritdoc cref="Barrier"/>
    public CollectiveHandle BarrierAsync() => Start<byte>(NewCall(CollectiveKind.Barrier, ElementType.UInt8), default, default);
}

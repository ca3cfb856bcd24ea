namespace Skein.Collectives;

// Turns the arguments of the public methods into calls, and checks them.
public sealed unsafe partial class ProcessGroup
{
    private void Run(CollectiveCall call)
    {
        try
        {
            queue.Run(call);
        }
        finally
        {
            spare = call;
        }
    }

    /// <summary>Starts a call whose arguments have been checked: only then are its buffers pinned.</summary>
    private CollectiveHandle Start<T>(CollectiveCall call, ReadOnlyMemory<T> input, ReadOnlyMemory<T> output) where T : unmanaged
    {
        var handle = new CollectiveHandle();
        call.Handle = handle;
        try
        {
            call.InputPin = input.Pin();
            call.OutputPin = output.Pin();
            call.Input = (byte*)call.InputPin.Pointer;
            call.Output = (byte*)call.OutputPin.Pointer;
            queue.Enqueue(call);
        }
        catch
        {
            call.Unpin();
            throw;
        }

        return handle;
    }

    private CollectiveCall NewCall(CollectiveKind kind, ElementType type)
    {
        ObjectDisposedException.ThrowIf(disposed, this);
        // Blocking calls reuse one object, so that they allocate nothing.
        CollectiveCall call = Interlocked.Exchange(ref spare, null) ?? new CollectiveCall();
        call.Reset(kind, type);
        return call;
    }

    private CollectiveCall AllReduceCall<T>(void* buffer, int length, ReduceOperation operation) where T : unmanaged
    {
        CollectiveCall call = NewCall(CollectiveKind.AllReduce, ElementTypes.Of<T>());
        call.Output = (byte*)buffer;
        call.Count = length;
        call.Operation = operation;
        call.Algorithm = AlgorithmFor(call.Count * call.ElementSize);
        return call;
    }

    private CollectiveCall ReduceScatterCall<T>(void* input, int inputLength, void* output, int outputLength, ReduceOperation operation)
        where T : unmanaged
    {
        CheckLength(outputLength, Partition.Length(inputLength, WorldSize, Rank), "the output of a reduce-scatter", "this rank's part of the input");
        CollectiveCall call = NewCall(CollectiveKind.ReduceScatter, ElementTypes.Of<T>());
        call.Input = (byte*)input;
        call.Output = (byte*)output;
        call.Count = inputLength;
        call.Operation = operation;
        return call;
    }

    private CollectiveCall AllGatherCall<T>(void* input, int inputLength, void* output, int outputLength, ReadOnlySpan<int> counts)
        where T : unmanaged
    {
        CollectiveCall call = NewCall(CollectiveKind.AllGather, ElementTypes.Of<T>());
        call.Input = (byte*)input;
        call.Output = (byte*)output;
        call.Count = outputLength;
        call.SendCounts = FillCounts(call.SendCounts, counts, outputLength, "an all-gather's output");
        if (!counts.IsEmpty) call.Layout = HashOf(counts);
        CheckLength(inputLength, call.SendCounts[Rank], "the input of an all-gather", "this rank's part of the output");
        return call;
    }

    private CollectiveCall RootedCall<T>(
        CollectiveKind kind, void* input, void* output, int length, int root, ReduceOperation operation = default) where T : unmanaged
    {
        if (root < 0 || root >= WorldSize)
        {
            throw new ArgumentOutOfRangeException(nameof(root), root, $"the root has to be a rank of the group, 0 to {WorldSize - 1}");
        }

        CollectiveCall call = NewCall(kind, ElementTypes.Of<T>());
        call.Input = (byte*)input;
        call.Output = (byte*)output;
        call.Count = length;
        call.Root = root;
        call.Operation = operation;
        return call;
    }

    private CollectiveCall GatherCall<T>(void* input, int inputLength, void* output, int outputLength, int root) where T : unmanaged
    {
        if (Rank == root) CheckLength(outputLength, (long)inputLength * WorldSize, "the root's output of a gather", "the inputs of all ranks");
        return RootedCall<T>(CollectiveKind.Gather, input, output, inputLength, root);
    }

    private CollectiveCall ScatterCall<T>(void* input, int inputLength, void* output, int outputLength, int root) where T : unmanaged
    {
        if (Rank == root) CheckLength(inputLength, (long)outputLength * WorldSize, "the root's input of a scatter", "the outputs of all ranks");
        return RootedCall<T>(CollectiveKind.Scatter, input, output, outputLength, root);
    }

    private CollectiveCall AllToAllCall<T>(
        void* input, int inputLength, void* output, int outputLength, ReadOnlySpan<int> sendCounts, ReadOnlySpan<int> receiveCounts)
        where T : unmanaged
    {
        CollectiveCall call = NewCall(CollectiveKind.AllToAll, ElementTypes.Of<T>());
        call.Input = (byte*)input;
        call.Output = (byte*)output;
        call.SendCounts = FillCounts(call.SendCounts, sendCounts, inputLength, "an all-to-all's input");
        if (sendCounts.IsEmpty)
        {
            long part = Partition.Length(inputLength, WorldSize, Rank);
            CheckLength(outputLength, part * WorldSize, "the output of an all-to-all", "this rank's part of every rank's input");
            call.Count = inputLength;
            if (call.ReceiveCounts.Length != WorldSize) call.ReceiveCounts = new long[WorldSize];
            Array.Fill(call.ReceiveCounts, part);
        }
        else
        {
            // Each rank has counts of its own, so that the ranks can agree only on there being some.
            call.Layout = 1;
            call.ReceiveCounts = FillCounts(call.ReceiveCounts, receiveCounts, outputLength, "an all-to-all's output");
        }

        return call;
    }

    private long[] FillCounts(long[] into, ReadOnlySpan<int> counts, int length, string what)
    {
        if (into.Length != WorldSize) into = new long[WorldSize];
        if (counts.IsEmpty)
        {
            for (int rank = 0; rank < WorldSize; rank++) into[rank] = Partition.Length(length, WorldSize, rank);
            return into;
        }

        if (counts.Length != WorldSize) throw new ArgumentException($"{what} needs a count for each of the {WorldSize} ranks, not {counts.Length}");
        long sum = 0;
        for (int rank = 0; rank < WorldSize; rank++)
        {
            ArgumentOutOfRangeException.ThrowIfNegative(counts[rank], nameof(counts));
            sum += into[rank] = counts[rank];
        }

        CheckLength(length, sum, what, "the sum of the counts");
        return into;
    }

    private static void CheckLength(long length, long expected, string what, string asIs)
    {
        if (length != expected) throw new ArgumentException($"{what} has {length:N0} elements, but {asIs} has {expected:N0}");
    }

    private static long HashOf(ReadOnlySpan<int> counts)
    {
        ulong hash = 14695981039346656037;
        foreach (int count in counts) hash = (hash ^ (uint)count) * 1099511628211;
        return (long)(hash | 1);
    }
}

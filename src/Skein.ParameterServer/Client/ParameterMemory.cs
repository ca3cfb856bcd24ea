namespace Skein.ParameterServer;

/// <summary>Where the float32 values of one parameter live: memory that neither moves nor is freed while a call uses it.</summary>
/// <param name="Address">The first value's address; 0 for a gradient that does not exist.</param>
/// <param name="Length">The number of values.</param>
public readonly record struct ParameterMemory(nint Address, long Length)
{
    /// <summary>Whether there are no values.</summary>
    public bool IsAbsent => Address == 0 && Length > 0;

    internal unsafe Span<float> Slice(long start, int length)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(start + length, Length);
        return new Span<float>((float*)Address + start, length);
    }
}

/// <summary>Gradients of some rows of a table.</summary>
/// <param name="Table">The table's place in the list that was opened.</param>
/// <param name="Ids">The rows; one that occurs several times counts with the sum of its gradients.</param>
/// <param name="Gradients">As many values per id as a row has.</param>
public sealed record RowGradients(int Table, long[] Ids, float[] Gradients);

/// <summary>What a worker pushes after one step.</summary>
public sealed record StepPush
{
    /// <summary>How many steps the worker pushed before: 0, 1, 2, …</summary>
    public required long Clock { get; init; }

    /// <summary>The learning rate of this step.</summary>
    public required double LearningRate { get; init; }

    /// <summary>The worker's part of the mean loss over the global batch; only the synchronous server adds it up.</summary>
    public double Loss { get; init; }

    /// <summary>Asks all workers of a synchronous job to stop after this step.</summary>
    public bool Stop { get; init; }

    /// <summary>The chunk of the work queue that the gradients come from, so that it counts once; null without a queue.</summary>
    public (int Epoch, int Chunk)? Work { get; init; }

    /// <summary>The gradients, in the order in which the parameters were opened.</summary>
    public required IReadOnlyList<ParameterMemory> Gradients { get; init; }

    /// <summary>The gradients of rows of tables.</summary>
    public IReadOnlyList<RowGradients> Rows { get; init; } = [];
}

/// <summary>What came with pulled parameters.</summary>
/// <param name="Loss">The mean loss over the global batch of the step before; synchronous jobs only.</param>
/// <param name="Stop">Whether some worker asked to stop; synchronous jobs only.</param>
/// <param name="BytesReceived">The bytes of parameters; 0 when the worker had the newest version.</param>
public readonly record struct PullAnswer(double Loss, bool Stop, long BytesReceived);

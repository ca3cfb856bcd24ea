namespace Skein.Training.Pipeline;

/// <summary>What a stage does with one micro-batch in one of its chunks.</summary>
public enum PipelineOperationKind
{
    /// <summary>The chunk's layers forward.</summary>
    Forward,

    /// <summary>The gradients of the chunk's input and of its weights.</summary>
    Backward,

    /// <summary>The gradient of the chunk's input only, which the stage before waits for.</summary>
    BackwardInput,

    /// <summary>The gradients of the chunk's weights only, which nobody waits for.</summary>
    BackwardWeight,
}

/// <summary>One entry of a stage's schedule.</summary>
/// <param name="Kind">What is computed.</param>
/// <param name="Chunk">Which of the stage's chunks, from 0.</param>
/// <param name="MicroBatch">Of which micro-batch, from 0.</param>
public readonly record struct PipelineOperation(PipelineOperationKind Kind, int Chunk, int MicroBatch);

using static TorchSharp.torch;

namespace Skein.Training.Pipeline;

/// <summary>By which costs a pipeline's layers are shared out among its stages.</summary>
public enum PipelineBalance
{
    /// <summary>
    /// Multiplications and outputs, counted: the same in every run. With <see cref="PipelineOptions.Sample"/> for the shapes that it
    /// leads to; else each matrix of weights counts once a sample, which is wrong for convolutions.
    /// </summary>
    Estimated,

    /// <summary>Measured time of forward and backward on <see cref="PipelineOptions.Sample"/>: layers may be shared out differently in the next run.</summary>
    Profiled,
}

/// <summary>How <see cref="PipelineParallel"/> cuts the model and orders the work. The same on all ranks.</summary>
public sealed record PipelineOptions
{
    /// <summary>The order of forward and backward passes. Default 1F1B.</summary>
    public PipelineSchedule Schedule { get; init; } = PipelineSchedule.OneForwardOneBackward;

    /// <summary>How many consecutive layers each chunk has, chunk by chunk, at least 1 each. Null: so that the most expensive chunk costs least.</summary>
    public IReadOnlyList<int>? LayersPerChunk { get; init; }

    /// <summary>What costs are, where <see cref="LayersPerChunk"/> is null.</summary>
    public PipelineBalance Balance { get; init; } = PipelineBalance.Estimated;

    /// <summary>Features of one micro-batch, on the model's device, to find the layers' costs with. Null: without.</summary>
    public Tensor? Sample { get; init; }

    /// <summary>
    /// The most bytes that a stage may hold, as far as they are known: four times its parameters (with gradients and Adam's moments), and,
    /// with <see cref="Sample"/>, its layers' outputs for as many micro-batches as there are stages. Null: no limit.
    /// </summary>
    public long? StageMemoryBytes { get; init; }
}

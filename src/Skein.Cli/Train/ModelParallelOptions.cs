using Skein.Training;

namespace Skein.Cli.Train;

/// <summary>What was written for strategies that divide the model; null or false: nothing was.</summary>
internal sealed record ModelParallelOptions
{
    /// <summary>What data-parallel workers divide.</summary>
    public ZeroStage? Zero { get; init; }

    /// <summary>Workers by dimension.</summary>
    public string? Mesh { get; init; }

    /// <summary>A pipeline's schedule.</summary>
    public string? Schedule { get; init; }

    /// <summary>A pipeline's micro-batches.</summary>
    public int? MicroBatches { get; init; }

    /// <summary>By which costs layers are shared out among stages, or how many each chunk has.</summary>
    public string? Split { get; init; }

    /// <summary>Whether norms work on parts of the sequence.</summary>
    public bool SequenceParallel { get; init; }

    /// <summary>Whether layers run again in the backward pass.</summary>
    public bool ActivationCheckpointing { get; init; }

    /// <summary>Whether the optimizer's state stays on the host.</summary>
    public bool OffloadOptimizer { get; init; }
}

using static TorchSharp.torch;

namespace Skein.Training;

/// <summary>What <see cref="ShardedDataParallel"/> divides among the ranks (Rajbhandari et al. 2020, "ZeRO", section 5).</summary>
public enum ZeroStage
{
    /// <summary>The optimizer's state.</summary>
    OptimizerState = 1,

    /// <summary>Also the gradients.</summary>
    Gradients = 2,

    /// <summary>Also the parameters.</summary>
    Parameters = 3,
}

/// <summary>How <see cref="ShardedDataParallel"/> divides a model. Immutable; the same on every rank.</summary>
public sealed record ShardedOptions
{
    /// <summary>What is divided. Default: everything.</summary>
    public ZeroStage Stage { get; init; } = ZeroStage.Parameters;

    /// <summary>
    /// Which modules are gathered and reduced as one, by the names they have in the model; their parameters may have no other
    /// owner. Null: the layers of an <see cref="ILayeredModel"/> or <c>Sequential</c>, else the whole model.
    /// </summary>
    public Func<string, nn.Module, bool>? Units { get; init; }

    /// <summary>
    /// Whether the next unit is gathered, and the last one reduced, while this one is computed. Null (the default) decides by
    /// what it can gain: yes, unless all ranks are on one host and keep its cores busy.
    /// </summary>
    public bool? Overlap { get; init; }

    /// <summary>Whether shards and the optimizer's state stay in the host's memory when the model is on another device.</summary>
    public bool OffloadOptimizer { get; init; }
}

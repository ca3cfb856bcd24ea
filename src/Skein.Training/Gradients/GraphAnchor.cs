using static TorchSharp.torch;

namespace Skein.Training.Gradients;

/// <summary>
/// One more input of a custom function, which makes its output part of the graph where its tensor input needs no gradient but
/// its parameters do. Parameters whose gradients are computed elsewhere are no inputs themselves, since the function would have
/// to return gradients for them.
/// </summary>
internal sealed class GraphAnchor
{
    /// <summary>To be passed to the function.</summary>
    public Tensor Input { get; } = zeros(1, requires_grad: true).DetachFromDisposeScope();

    /// <summary>To be returned by its backward pass.</summary>
    public Tensor Gradient { get; } = zeros(1).DetachFromDisposeScope();
}

using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training;

/// <summary>A model that is the composition of its layers, in order: what can be cut into pipeline stages, sharded layer by layer, or recomputed layer by layer.</summary>
public interface ILayeredModel
{
    /// <summary>The layers, each mapping one tensor to one. The model's forward calls them in this order and does nothing else. Entries may be replaced by modules of the same function.</summary>
    ModuleList<nn.Module<Tensor, Tensor>> Layers { get; }
}

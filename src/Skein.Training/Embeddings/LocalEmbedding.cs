using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.Embeddings;

/// <summary>Embedding tables that are parameters of the model, with dense gradients.</summary>
public static class LocalEmbedding
{
    /// <summary>A table with rows drawn from LibTorch's generator.</summary>
    public static nn.Module<Tensor, Tensor> Create(EmbeddingSpec spec)
    {
        ArgumentNullException.ThrowIfNull(spec);
        // Not Embedding_from_pretrained: in TorchSharp 0.107 the parameter it registers is not the one that it uses.
        Embedding table = nn.Embedding(spec.Rows, spec.Dimension);
        nn.init.normal_(table.weight!, 0, spec.InitialDeviation);
        return table;
    }
}

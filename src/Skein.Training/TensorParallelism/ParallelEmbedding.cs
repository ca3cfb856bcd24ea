using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.TensorParallelism;

/// <summary>
/// A table of which each rank has some rows: it looks up the ids that it has, takes zeros for the others, and the ranks add up
/// (Shoeybi et al. 2019, section 3). From ids [n, t] to [n, t, w].
/// </summary>
internal sealed class ParallelEmbedding : nn.Module<Tensor, Tensor>
{
    private readonly ParallelRegion region;
    private readonly VocabularyPart part;
    private readonly Parameter weight;

    /// <param name="region">The ranks that divide it.</param>
    /// <param name="weight">This rank's rows, [V / T, w].</param>
    /// <param name="vocabulary">The number of rows of all ranks, V.</param>
    internal ParallelEmbedding(ParallelRegion region, Parameter weight, long vocabulary)
        : base(nameof(ParallelEmbedding))
    {
        this.region = region;
        this.weight = weight;
        part = new VocabularyPart(region.Collectives, vocabulary);
        RegisterComponents();
    }

    /// <inheritdoc/>
    public override Tensor forward(Tensor input)
    {
        using var scope = NewDisposeScope();
        (Tensor local, Tensor elsewhere) = part.Locate(input);
        Tensor rows = weight.index_select(0, local.flatten()).view([.. input.shape, weight.shape[1]]);
        return region.Leave(rows.masked_fill(elsewhere.unsqueeze(-1), 0)).MoveToOuterDisposeScope();
    }
}

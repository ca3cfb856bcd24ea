using static TorchSharp.torch;

namespace Skein.Training.TensorParallelism;

/// <summary>
/// Dropout on this rank's slice of the sequence, [n, t / T, w]. Every rank draws the mask of the whole sequence, so that it drops what one process
/// would, and all ranks' generators move on alike.
/// </summary>
internal sealed class SequenceDropout(ParallelRegion region, double probability) : nn.Module<Tensor, Tensor>(nameof(SequenceDropout))
{
    /// <inheritdoc/>
    public override Tensor forward(Tensor input)
    {
        if (!training || probability == 0) return input.alias();
        using var scope = NewDisposeScope();
        Tensor whole = ones(input.shape[0], input.shape[1] * region.Collectives.WorldSize, input.shape[2], input.dtype, input.device);
        Tensor mask = nn.functional.dropout(whole, probability, training: true);
        return (input * region.SliceSequence(mask, 1)).MoveToOuterDisposeScope();
    }
}

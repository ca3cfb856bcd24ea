using Skein.Collectives;
using TorchSharp;
using static TorchSharp.torch;

namespace Skein.Training.TensorParallelism;

/// <summary>
/// The mean cross-entropy of logits of which each rank has a part of the vocabulary, without gathering them: the ranks exchange three
/// numbers for each position (Shoeybi et al. 2019, section 3).
/// </summary>
internal sealed class ParallelCrossEntropy : autograd.SingleTensorFunction<ParallelCrossEntropy>
{
    /// <inheritdoc/>
    public override string Name => nameof(ParallelCrossEntropy);

    /// <param name="region">The ranks that divide the vocabulary.</param>
    /// <param name="logits">This rank's part, [n, t, V / T] or [n, V / T].</param>
    /// <param name="labels">Ids in the whole vocabulary, [n, t] or [n].</param>
    /// <param name="vocabulary">V.</param>
    /// <returns>The mean over positions, the same on every rank.</returns>
    public static Tensor Compute(ParallelRegion region, Tensor logits, Tensor labels, long vocabulary)
    {
        if (!labels.shape.AsSpan().SequenceEqual(logits.shape.AsSpan(0, (int)logits.dim() - 1)) || labels.dtype != ScalarType.Int64)
        {
            throw new ArgumentException(
                $"cross-entropy takes one class number for each position: labels of Int64[{string.Join(", ", logits.shape.SkipLast(1))}], not {labels.dtype}[{string.Join(", ", labels.shape)}]");
        }

        return apply(logits, new Call(region, labels, vocabulary, logits.shape));
    }

    /// <inheritdoc/>
    public override Tensor forward(autograd.AutogradContext ctx, params object[] vars)
    {
        var call = (Call)vars[1];
        TensorCollectives collectives = call.Region.Collectives;
        using DisposeScope scope = NewDisposeScope();
        Tensor logits = ((Tensor)vars[0]).flatten(0, -2);                                              // [p, V / T]
        (Tensor labels, Tensor elsewhere) = new VocabularyPart(collectives, call.Vocabulary).Locate(call.Labels.flatten());
        Tensor largest = logits.amax(1);                                                               // [p]
        collectives.AllReduceInPlace(largest, ReduceOperation.Max);
        Tensor exponentials = logits - largest.unsqueeze(1);
        Tensor chosen = exponentials.gather(1, labels.unsqueeze(1)).squeeze(1).masked_fill_(elsewhere, 0);
        Tensor sums = stack([exponentials.exp_().sum(1), chosen]);                                     // [2, p]
        collectives.AllReduceInPlace(sums);
        Tensor loss = (sums[0].log() - sums[1]).mean();
        Tensor probabilities = exponentials.div_(sums[0].unsqueeze(1));
        ctx.save_data(nameof(Call), call);
        ctx.save_for_backward([.. new[] { probabilities, labels, elsewhere }.Select(static tensor => tensor.MoveToOuterDisposeScope())]);
        return loss.MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public override List<Tensor> backward(autograd.AutogradContext ctx, Tensor grad_output)
    {
        var call = (Call)ctx.get_data(nameof(Call));
        return [call.Region.RunBackward(grad_output, gradient => Gradient(ctx, gradient, call.Shape), call.Shape), null!];
    }

    // (softmax - onehot) / p
    private static Tensor Gradient(autograd.AutogradContext ctx, Tensor scale, long[] shape)
    {
        using DisposeScope scope = NewDisposeScope();
        List<Tensor> saved = ctx.get_saved_variables();
        (Tensor probabilities, Tensor labels, Tensor elsewhere) = (saved[0], saved[1], saved[2]);
        Tensor each = scale / labels.numel();
        Tensor gradient = probabilities * each;
        gradient.scatter_add_(1, labels.unsqueeze(1), each.neg().expand(labels.numel()).masked_fill(elsewhere, 0).unsqueeze(1));
        return gradient.view(shape).MoveToOuterDisposeScope();
    }

    private sealed record Call(ParallelRegion Region, Tensor Labels, long Vocabulary, long[] Shape);
}

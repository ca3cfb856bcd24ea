using Skein.Collectives;
using TorchSharp;
using static TorchSharp.torch;

namespace Skein.Training.TensorParallelism;

/// <summary>
/// The cross-entropy of logits of which each rank has a part of the vocabulary, without gathering them: the ranks exchange three
/// numbers for each position (Shoeybi et al. 2019, section 3).
/// </summary>
internal sealed class ParallelCrossEntropy : autograd.SingleTensorFunction<ParallelCrossEntropy>
{
    /// <summary>The label of positions that do not count, as for torch's cross-entropy.</summary>
    public const long Ignored = -100;

    /// <inheritdoc/>
    public override string Name => nameof(ParallelCrossEntropy);

    /// <param name="region">The ranks that divide the vocabulary.</param>
    /// <param name="logits">This rank's part, [n, t, V / T] or [n, V / T].</param>
    /// <param name="labels">Ids in the whole vocabulary, [n, t] or [n].</param>
    /// <param name="vocabulary">V.</param>
    /// <param name="average">Whether to divide by the number of positions that count.</param>
    /// <returns>
    /// The mean or sum over positions whose label is not <see cref="Ignored"/>, the same on every rank, and their number. The mean of none is NaN.
    /// </returns>
    public static (Tensor Loss, long Count) Compute(ParallelRegion region, Tensor logits, Tensor labels, long vocabulary, bool average = true)
    {
        if (!labels.shape.AsSpan().SequenceEqual(logits.shape.AsSpan(0, (int)logits.dim() - 1)) || labels.dtype != ScalarType.Int64)
        {
            throw new ArgumentException(
                $"cross-entropy takes one class number for each position: labels of Int64[{string.Join(", ", logits.shape.SkipLast(1))}], not {labels.dtype}[{string.Join(", ", labels.shape)}]");
        }

        using Tensor counts = labels.ne(Ignored);
        long count = counts.sum().ToInt64();
        return (apply(logits, new Call(region, labels, vocabulary, logits.shape, average ? count : 1)), count);
    }

    /// <inheritdoc/>
    public override Tensor forward(autograd.AutogradContext ctx, params object[] vars)
    {
        var call = (Call)vars[1];
        TensorCollectives collectives = call.Region.Collectives;
        using DisposeScope scope = NewDisposeScope();
        Tensor logits = ((Tensor)vars[0]).flatten(0, -2);                                              // [p, V / T]
        Tensor ignored = call.Labels.flatten().eq(Ignored);                                            // [p]
        (Tensor labels, Tensor elsewhere) = new VocabularyPart(collectives, call.Vocabulary).Locate(call.Labels.flatten().masked_fill(ignored, 0));
        Tensor largest = logits.amax(1);                                                               // [p]
        collectives.AllReduceInPlace(largest, ReduceOperation.Max);
        Tensor exponentials = logits - largest.unsqueeze(1);
        Tensor chosen = exponentials.gather(1, labels.unsqueeze(1)).squeeze(1).masked_fill_(elsewhere, 0);
        Tensor sums = stack([exponentials.exp_().sum(1), chosen]);                                     // [2, p]
        collectives.AllReduceInPlace(sums);
        Tensor loss = (sums[0].log() - sums[1]).masked_fill(ignored, 0).sum() / call.Divisor;
        Tensor probabilities = exponentials.div_(sums[0].unsqueeze(1));
        ctx.save_data(nameof(Call), call);
        ctx.save_for_backward([.. new[] { probabilities, labels, elsewhere, ignored }.Select(static tensor => tensor.MoveToOuterDisposeScope())]);
        return loss.MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public override List<Tensor> backward(autograd.AutogradContext ctx, Tensor grad_output)
    {
        var call = (Call)ctx.get_data(nameof(Call));
        return [call.Region.RunBackward(grad_output, gradient => Gradient(ctx, gradient, call), call.Shape), null!];
    }

    // (softmax - onehot) / divisor, of positions that count
    private static Tensor Gradient(autograd.AutogradContext ctx, Tensor scale, Call call)
    {
        using DisposeScope scope = NewDisposeScope();
        List<Tensor> saved = ctx.get_saved_variables();
        (Tensor probabilities, Tensor labels, Tensor elsewhere, Tensor ignored) = (saved[0], saved[1], saved[2], saved[3]);
        Tensor each = (scale / call.Divisor).expand(labels.numel()).masked_fill(ignored, 0);           // [p]
        Tensor gradient = probabilities * each.unsqueeze(1);
        gradient.scatter_add_(1, labels.unsqueeze(1), each.neg().masked_fill(elsewhere, 0).unsqueeze(1));
        return gradient.view(call.Shape).MoveToOuterDisposeScope();
    }

    private sealed record Call(ParallelRegion Region, Tensor Labels, long Vocabulary, long[] Shape, long Divisor);
}

using TorchSharp;
using static TorchSharp.torch;

namespace Skein.Training;

/// <summary>
/// A loss that is a mean over something other than samples, in two parts: a sum, and what it is to be divided by. The <see cref="Trainer"/>
/// adds both up over micro-batches and ranks before it divides, so that the mean is that of the whole batch however it is split.
/// </summary>
/// <param name="Sum">The sum of the terms, a scalar with a graph; 0 where there are none.</param>
/// <param name="Weight">The sum of their weights, such as the number of tokens that count, 0 or more and finite.</param>
public readonly record struct LossSum(Tensor Sum, double Weight)
{
    /// <summary>The cross-entropy of the labels that count, as <c>torch.nn.functional.cross_entropy</c> averages it.</summary>
    /// <param name="output">Scores, [n, classes] or [n, …, classes].</param>
    /// <param name="labels">Class numbers, [n] or [n, …].</param>
    /// <param name="classWeights">How much each class counts, [classes]. Null: all alike.</param>
    /// <param name="ignoredLabel">The label of what does not count.</param>
    public static LossSum CrossEntropy(Tensor output, Tensor labels, Tensor? classWeights = null, long ignoredLabel = -100)
    {
        ArgumentNullException.ThrowIfNull(output);
        ArgumentNullException.ThrowIfNull(labels);
        Tensor flat = labels.reshape(-1);
        Tensor sum = nn.functional.cross_entropy(output.reshape(-1, output.shape[^1]), flat, classWeights, ignoredLabel, nn.Reduction.Sum);
        using DisposeScope scope = NewDisposeScope();
        Tensor counted = flat[flat.ne(ignoredLabel)];
        double weight = classWeights is null ? counted.numel() : classWeights.index_select(0, counted).sum(ScalarType.Float64).ToDouble();
        return new LossSum(sum, weight);
    }
}

/// <summary>The function that a trainer makes small: a mean over samples, or one that comes as a <see cref="LossSum"/>. The other is null.</summary>
internal sealed record Objective(Func<Tensor, Tensor, Tensor>? Mean, Func<Tensor, Tensor, LossSum>? Sum)
{
    /// <summary>What the strategy computes in its place, of outputs in single precision whatever the model's is.</summary>
    public Objective On(Strategy strategy)
    {
        Func<Tensor, Tensor, Tensor>? mean = Mean is null ? null : strategy.LossOf(Mean);
        Func<Tensor, Tensor, LossSum>? sum = Sum is null ? null : strategy.LossOf(Sum);
        return new Objective(
            mean is null ? null : (output, labels) => mean(Wide(output), labels),
            sum is null ? null : (output, labels) => Checked(sum(Wide(output), labels)));
    }

    /// <summary>The sum of the loss over some samples, and its weight.</summary>
    public (double Sum, double Weight) Measure(Tensor output, Tensor labels, int samples)
    {
        if (Mean is not null) return (Mean(output, labels).ToDouble() * samples, samples);
        LossSum loss = Sum!(output, labels);
        return (loss.Sum.ToDouble(), loss.Weight);
    }

    private static Tensor Wide(Tensor output) => output.dtype is ScalarType.BFloat16 or ScalarType.Float16 ? output.to(float32) : output;

    private static LossSum Checked(LossSum loss) => loss.Weight >= 0 && double.IsFinite(loss.Weight)
        ? loss
        : throw new InvalidOperationException($"the loss has the weight {loss.Weight}: give a finite number from 0");
}

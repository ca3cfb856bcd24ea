using Skein.Collectives;
using Skein.Training;
using TorchSharp;
using static TorchSharp.torch;

namespace Skein.Cli.Train;

/// <summary>Ends a run whose loss is no number any more, and says in which step and on which rank that began.</summary>
/// <param name="loss">The workload's.</param>
/// <param name="group">The ranks, where all learn the loss of all in every step; null: each learns its own.</param>
/// <param name="rank">This one.</param>
/// <param name="learningRate">For the error.</param>
internal sealed class DivergenceGuard(Func<Tensor, Tensor, Tensor> loss, ProcessGroup? group, int rank, double learningRate)
{
    private bool began;

    /// <summary>The workload's loss, which is looked at.</summary>
    public Tensor Loss(Tensor output, Tensor labels)
    {
        Tensor value = loss(output, labels);
        began |= !double.IsFinite(value.ToDouble());
        return value;
    }

    /// <summary>Called after each step, on every rank.</summary>
    /// <exception cref="InvalidOperationException">The step's loss is NaN or infinite.</exception>
    public void Check(StepInfo step)
    {
        if (float.IsFinite(step.Loss)) began = false;
        else throw new InvalidOperationException($"training diverged: the loss is {step.Loss} in step {step.Step}{Where()}; {Remedy}");
    }

    /// <summary>Called after training: what the last update has spoilt shows only here.</summary>
    /// <exception cref="InvalidOperationException">The loss is NaN or infinite.</exception>
    public void Check(EvaluationReport evaluation, long steps)
    {
        if (double.IsFinite(evaluation.Loss)) return;
        throw new InvalidOperationException(
            $"training diverged: the loss on the test data is {evaluation.Loss} after step {steps}; {Remedy}");
    }

    private string Remedy => $"give a --learning-rate below {learningRate}, or --allow-non-finite to train on";

    private string Where()
    {
        if (group is null) return $" on rank {rank}";
        var all = new byte[group.WorldSize];
        group.AllGather([began ? (byte)1 : (byte)0], all.AsSpan());
        int[] where = [.. Enumerable.Range(0, all.Length).Where(other => all[other] != 0)];
        // A loss that ranks compute together is no one's own.
        return where.Length == 0 || where.Length == all.Length ? " on every rank" : $" on rank {string.Join(", ", where)}";
    }
}

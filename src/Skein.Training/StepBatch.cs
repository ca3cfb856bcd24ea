using System.Diagnostics;
using Skein.Training.Data;
using TorchSharp;
using static TorchSharp.torch;

namespace Skein.Training;

/// <summary>This rank's share of one global batch, as micro-batches that a <see cref="Strategy"/> runs one after the other.</summary>
public sealed class StepBatch
{
    private readonly Func<Tensor, Tensor> model;
    private readonly Func<Tensor, Tensor> input;
    private readonly Objective objective;
    private readonly InMemoryDataset data;
    private readonly Device device;
    private readonly int accumulation;
    private Tensor? order;
    private int start;
    private int count;

    internal StepBatch(
        Func<Tensor, Tensor> model, Func<Tensor, Tensor> input, Objective objective, InMemoryDataset data, Device device, int accumulation)
    {
        this.model = model;
        this.input = input;
        this.objective = objective;
        this.data = data;
        this.device = device;
        this.accumulation = accumulation;
    }

    /// <summary>The number of micro-batches on this rank; 0 when the global batch is too small to give it a sample.</summary>
    public int MicroBatches => Math.Min(accumulation, count);

    /// <summary>The number of micro-batches on the rank with the most samples, when <paramref name="ranks"/> share the batch.</summary>
    internal int MostMicroBatches(int ranks) => Math.Min(accumulation, DistributedSampler.Split(GlobalSize, ranks, 0).Count);

    /// <summary>The number of samples in the global batch, over all ranks.</summary>
    public int GlobalSize { get; private set; }

    /// <summary>The number of samples of this rank's share.</summary>
    public int LocalSize => count;

    /// <summary>The learning rate of this step, for strategies that do not update in this process.</summary>
    public double LearningRate { get; internal set; }

    /// <summary>The trainer's optimizer, for strategies that update elsewhere, by one that has to be the same.</summary>
    internal optim.Optimizer? Optimizer { get; init; }

    /// <summary>Whether this rank wants the training to end after this step.</summary>
    public bool StopRequested { get; internal set; }

    /// <summary>
    /// The part of the global batch that micro-batch <paramref name="index"/> is, from 0 to 1: the weight of its mean loss. From
    /// <see cref="MicroBatches"/> on, 0: there is some sample that counts nothing, for ranks that others need in every pass.
    /// </summary>
    public double Share(int index) => index < MicroBatches ? (double)SizeOf(index) / GlobalSize : 0;

    /// <summary>
    /// The weight of what <see cref="RunBackward"/> has gone through in this step, times its scale and divided by <see cref="GlobalSize"/>:
    /// samples, or what a <see cref="LossSum"/> says.
    /// </summary>
    internal double Weight { get; private set; }

    /// <summary>Runs the model on micro-batch <paramref name="index"/> and returns its mean loss, a scalar with a graph.</summary>
    /// <exception cref="InvalidOperationException">The trainer's loss is a <see cref="LossSum"/>.</exception>
    public Tensor Loss(int index)
    {
        (Tensor features, Tensor labels) = MicroBatch(index);
        return LossOf(model(features), labels);
    }

    /// <summary>The number of samples in micro-batch <paramref name="index"/>.</summary>
    public int SizeOf(int index) => Slice(index).Count;

    /// <summary>The inputs and labels of micro-batch <paramref name="index"/>, for strategies that run the model themselves.</summary>
    public (Tensor Features, Tensor Labels) MicroBatch(int index)
    {
        (int first, int length) = Slice(index);
        using Tensor indices = order!.narrow(0, first, length);
        (Tensor features, Tensor labels) = data.Gather(indices, device);
        return (input(features), labels);
    }

    /// <summary>The mean loss of outputs of the model for the samples of these labels.</summary>
    /// <exception cref="InvalidOperationException">The trainer's loss is a <see cref="LossSum"/>.</exception>
    public Tensor LossOf(Tensor output, Tensor labels) => objective.Mean is { } mean
        ? mean(output, labels)
        : throw new InvalidOperationException(
            $"the trainer's loss is a {nameof(LossSum)}, whose mean is not known before the step is over: use {nameof(RunBackward)}");

    /// <summary>What micro-batch <paramref name="index"/> adds to <paramref name="scale"/> times the global mean loss, counted in <see cref="Weight"/>.</summary>
    /// <returns>What to run backward from, and its value; both 0 beyond the micro-batches.</returns>
    internal (Tensor Part, double Value) Part(Tensor output, Tensor labels, int index, double scale)
    {
        double factor = scale * Share(index);
        Tensor loss;
        if (objective.Sum is { } sum)
        {
            (loss, double weight) = sum(output, labels);
            factor /= SizeOf(index);
            Weight += factor * weight;
        }
        else
        {
            loss = LossOf(output, labels);
            Weight += factor;
        }

        return (factor == 1 ? loss : loss * factor, factor > 0 ? factor * loss.ToDouble() : 0);
    }

    /// <summary>What this rank has found in a step, for all to agree on.</summary>
    internal StepOutcome Outcome(float loss) => new(loss, StopRequested, (float)Weight);

    /// <summary>
    /// Runs every micro-batch forward and backward, one graph alive at a time. The gradients add up to those of
    /// <paramref name="scale"/> times this rank's part of the global mean loss.
    /// </summary>
    /// <param name="scale">What each micro-batch's share is multiplied by.</param>
    /// <param name="backward">Runs the backward pass from a loss; told whether it is this step's last.</param>
    /// <param name="passes">At least as many passes, those beyond the micro-batches over what counts nothing.</param>
    /// <returns><paramref name="scale"/> times this rank's part of the global mean loss.</returns>
    public float RunBackward(double scale, Action<Tensor, bool> backward, int passes = 0)
    {
        ArgumentNullException.ThrowIfNull(backward);
        long begin = Stopwatch.GetTimestamp();
        double total = 0;
        passes = Math.Max(passes, MicroBatches);
        for (int i = 0; i < passes; i++)
        {
            using DisposeScope scope = NewDisposeScope();
            (Tensor features, Tensor labels) = MicroBatch(i);
            (Tensor part, double value) = Part(model(features), labels, i, scale);
            backward(part, i == passes - 1);
            total += value;
        }

        if (Slowdown > 1) Thread.Sleep(Stopwatch.GetElapsedTime(begin) * (Slowdown - 1));
        return (float)total;
    }

    /// <summary>How many times as long the computation is made to last.</summary>
    internal double Slowdown { get; init; } = 1;

    internal void MoveTo(Tensor newOrder, (int Start, int Count) slice, int globalSize)
    {
        order = newOrder;
        (start, count) = slice;
        GlobalSize = globalSize;
        Weight = 0;
    }

    private (int First, int Count) Slice(int index)
    {
        if (index >= MicroBatches) return (0, 1);
        (int offset, int length) = DistributedSampler.Split(count, MicroBatches, index);
        return (start + offset, length);
    }
}

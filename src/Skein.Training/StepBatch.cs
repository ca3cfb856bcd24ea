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
    private readonly Func<Tensor, Tensor, Tensor> loss;
    private readonly InMemoryDataset data;
    private readonly Device device;
    private readonly int accumulation;
    private Tensor? order;
    private int start;
    private int count;

    internal StepBatch(
        Func<Tensor, Tensor> model, Func<Tensor, Tensor> input, Func<Tensor, Tensor, Tensor> loss, InMemoryDataset data, Device device, int accumulation)
    {
        this.model = model;
        this.input = input;
        this.loss = loss;
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

    /// <summary>Runs the model on micro-batch <paramref name="index"/> and returns its mean loss, a scalar with a graph.</summary>
    public Tensor Loss(int index)
    {
        (Tensor features, Tensor labels) = MicroBatch(index);
        return loss(model(features), labels);
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
    public Tensor LossOf(Tensor output, Tensor labels) => loss(output, labels);

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
            double weight = scale * Share(i);
            Tensor loss = Loss(i);
            backward(weight == 1 ? loss : loss * weight, i == passes - 1);
            if (weight > 0) total += weight * loss.ToDouble();
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
    }

    private (int First, int Count) Slice(int index)
    {
        if (index >= MicroBatches) return (0, 1);
        (int offset, int length) = DistributedSampler.Split(count, MicroBatches, index);
        return (start + offset, length);
    }
}

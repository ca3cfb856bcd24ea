using Skein.Collectives;
using Skein.Training.Gradients;
using Skein.Training.TensorParallelism;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training;

/// <summary>
/// Batch normalisation over the samples of all ranks: with <see cref="DataParallel"/> and others that share out the batch it computes
/// what one process would of the whole batch, forward and backward, where <c>BatchNorm</c> normalises each rank's part by itself. The
/// ranks exchange two sums a channel in each pass. Parameters, buffers and their names are those of <c>BatchNorm</c>.
/// </summary>
/// <remarks>
/// Every rank has to call it equally often in a step: batches have to give each rank as many micro-batches as the others, also the last
/// batch of an epoch. In evaluation mode it takes the running statistics, and needs no other rank. Not thread-safe.
/// </remarks>
public sealed class SyncBatchNorm : nn.Module<Tensor, Tensor>, IRunsInBackward
{
    private readonly TensorCollectives collectives;
    private readonly BackwardFailure failure = new();
    // In an array, so that TorchSharp does not take it for a module of this one; without it its finalizer would free what is used here.
    private readonly BatchNorm[] replaced;
    private readonly double epsilon;
    private readonly double? momentum;
    private readonly Parameter? weight;
    private readonly Parameter? bias;
    private readonly Tensor? running_mean;
    private readonly Tensor? running_var;
    private readonly Tensor? num_batches_tracked;

    /// <summary>Stands in for <paramref name="norm"/>, whose parameters and buffers it takes over.</summary>
    /// <param name="group">
    /// The ranks that share the batch; best a group of its own (<c>SplitAsync</c>), so that its sums are never between a strategy's.
    /// </param>
    /// <param name="norm">A <c>BatchNorm1d</c>, <c>2d</c> or <c>3d</c>.</param>
    public SyncBatchNorm(ProcessGroup group, BatchNorm norm)
        : base(nameof(SyncBatchNorm))
    {
        ArgumentNullException.ThrowIfNull(group);
        ArgumentNullException.ThrowIfNull(norm);
        collectives = new TensorCollectives(group);
        replaced = [norm];
        (epsilon, momentum) = (norm.eps, norm.momentum);
        (weight, bias) = (norm.weight, norm.bias);
        (running_mean, running_var, num_batches_tracked) = (norm.running_mean, norm.running_var, norm.num_batches_tracked);
        if (weight is not null) register_parameter(nameof(weight), weight);
        if (bias is not null) register_parameter(nameof(bias), bias);
        if (running_mean is not null) register_buffer(nameof(running_mean), running_mean);
        if (running_var is not null) register_buffer(nameof(running_var), running_var);
        if (num_batches_tracked is not null) register_buffer(nameof(num_batches_tracked), num_batches_tracked);
        train(norm.training);
    }

    BackwardFailure IRunsInBackward.Failure => failure;

    /// <summary>Puts one in the place of every <c>BatchNorm</c> of a model. Before a strategy is attached, and an optimizer made.</summary>
    /// <exception cref="ArgumentException">A module holds one in a way that allows no other in its place; names it.</exception>
    public static void Convert(nn.Module model, ProcessGroup group)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(group);
        foreach ((string name, nn.Module module) in model.named_modules().ToArray())
        {
            if (module is BatchNorm norm) ModuleTree.Replace(model, name, new SyncBatchNorm(group, norm));
        }
    }

    /// <inheritdoc/>
    public override Tensor forward(Tensor input)
    {
        failure.ThrowIfAny();
        using DisposeScope scope = NewDisposeScope();
        if (!training && running_mean is not null)
        {
            return nn.functional.batch_norm(input, running_mean, running_var, weight, bias, false, 0, epsilon).MoveToOuterDisposeScope();
        }

        Tensor wide = input.to(float32);
        long channels = input.shape[1];
        long[] dimensions = [0, .. Enumerable.Range(2, (int)input.dim() - 2).Select(static dimension => (long)dimension)];
        long[] shape = [1, channels, .. Enumerable.Repeat(1L, (int)input.dim() - 2)];
        Tensor own = full(1, (float)(input.numel() / channels), device: input.device);
        Tensor sums = Sum(cat([wide.sum(dimensions), own]));                                            // [channels + 1]
        Tensor count = sums[channels].detach();
        Tensor mean = sums.narrow(0, 0, channels) / count;
        // From the mean, and not from the sum of squares, whose digits it would take.
        Tensor centred = wide - mean.view(shape);
        Tensor variance = Sum(centred.square().sum(dimensions)) / count;
        if (training) Track(mean.detach(), variance.detach(), count);
        Tensor output = centred * (variance + epsilon).rsqrt().view(shape);
        if (weight is not null) output = output * weight.to(float32).view(shape);
        if (bias is not null) output = output + bias.to(float32).view(shape);
        return output.to(input.dtype).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        if (disposing)
        {
            collectives.Dispose();
            replaced[0].Dispose();
        }

        base.Dispose(disposing);
    }

    private Tensor Sum(Tensor part) => collectives.WorldSize == 1 ? part : SumOverRanks.apply(part, this);

    private void Track(Tensor mean, Tensor variance, Tensor count)
    {
        if (running_mean is null) return;
        using var noGradient = no_grad();
        num_batches_tracked!.add_(1);
        double share = momentum ?? 1.0 / num_batches_tracked.to(int64).item<long>();
        running_mean.mul_(1 - share).add_(mean.to(running_mean.dtype), alpha: share);
        running_var!.mul_(1 - share).add_((variance * (count / (count - 1))).to(running_var.dtype), alpha: share);
    }

    /// <summary>Adds up over the ranks; backward the same, since every rank's loss depends on every rank's part.</summary>
    private sealed class SumOverRanks : autograd.SingleTensorFunction<SumOverRanks>
    {
        public override string Name => nameof(SumOverRanks);

        public override Tensor forward(autograd.AutogradContext ctx, params object[] vars)
        {
            ctx.save_data(nameof(SyncBatchNorm), vars[1]);
            return ((SyncBatchNorm)vars[1]).collectives.AllReduce((Tensor)vars[0]);
        }

        public override List<Tensor> backward(autograd.AutogradContext ctx, Tensor grad_output)
        {
            var norm = (SyncBatchNorm)ctx.get_data(nameof(SyncBatchNorm));
            Tensor? sum = null;
            norm.failure.Run(() => sum = norm.collectives.AllReduce(grad_output));
            // After an error anything of its shape will do.
            return [sum ?? grad_output, null!];
        }
    }
}

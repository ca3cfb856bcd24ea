using Skein.Training.Gradients;
using static TorchSharp.torch;

namespace Skein.Training.TensorParallelism;

/// <summary>
/// The way into and out of the parts of a model that the ranks of a tensor group divide. Each way is a pair of operations, of which
/// one runs forward and the other backward: f and g of Shoeybi et al. 2019 ("Megatron-LM", section 3), and g and ḡ of Korthikanti et
/// al. 2022 ("Reducing activation recomputation", section 4.2.2), where activations between the divided parts are divided along the sequence.
/// </summary>
/// <remarks>
/// The ranks run the same model on the same samples, and the autograd engine takes equal graphs in equal order: so they make the
/// collectives of a backward pass in the same order, as those of a forward pass.
/// </remarks>
internal sealed class ParallelRegion(TensorCollectives collectives, BackwardFailure failure, bool sequenceParallel)
{
    /// <summary>The dimension of the sequence in activations, [n, t, w].</summary>
    private const int Sequence = 1;

    private Tensor? handedOver;

    public TensorCollectives Collectives => collectives;

    public bool SequenceParallel => sequenceParallel && collectives.WorldSize > 1;

    /// <summary>
    /// The whole input of layers that each compute a part of their outputs: backward, the ranks' gradients are added up. With sequence
    /// parallelism from the ranks' slices of the sequence, and back.
    /// </summary>
    public Tensor Enter(Tensor input)
    {
        if (collectives.WorldSize == 1) return input;
        if (!SequenceParallel) return Conjugate.Apply(this, input, static (_, tensor) => tensor.alias(), static (region, gradient) => region.Collectives.AllReduce(gradient));
        CheckActivation(input);
        return Conjugate.Apply(this, input, GatherSequence, ScatterSequence);
    }

    /// <summary>The sum of the ranks' parts of an output. With sequence parallelism this rank's slice of it.</summary>
    public Tensor Leave(Tensor partial)
    {
        if (collectives.WorldSize == 1) return partial;
        if (!SequenceParallel) return Conjugate.Apply(this, partial, static (region, tensor) => region.Collectives.AllReduce(tensor), static (_, gradient) => gradient);
        CheckActivation(partial);
        CheckLength(partial.shape[Sequence]);
        return Conjugate.Apply(this, partial, ScatterSequence, GatherSequence);
    }

    /// <summary>The whole output, <paramref name="features"/> wide, of whose features each rank has a part.</summary>
    public Tensor GatherFeatures(Tensor part, long features) => collectives.WorldSize == 1
        ? part
        : Conjugate.Apply(this, part, (region, tensor) => region.Collectives.AllGather(tensor, -1, features), static (region, gradient) => region.Collectives.Slice(gradient, -1).contiguous());

    /// <summary>This rank's slice, a view, of what is the same on all ranks, without a gradient.</summary>
    /// <param name="whole">Something for each position.</param>
    /// <param name="dimension">That of the positions.</param>
    public Tensor SliceSequence(Tensor whole, long dimension)
    {
        CheckLength(whole.shape[dimension]);
        return collectives.Slice(whole, dimension);
    }

    /// <summary>Computes, inside a backward pass, an input's gradient from the output's; zeros of the input's shape where that fails.</summary>
    public Tensor RunBackward(Tensor output, Func<Tensor, Tensor> compute, long[] shape)
    {
        Tensor? gradient = null;
        if (!failure.Run(() => gradient = compute(output))) gradient = zeros(shape, output.dtype, output.device);
        // The engine has references of its own to what it was given before; dispose scopes would hold all of it until the end of the pass.
        handedOver?.Dispose();
        if (!ReferenceEquals(gradient, output)) output.Dispose();
        return handedOver = gradient!;
    }

    private static Tensor GatherSequence(ParallelRegion region, Tensor slice) =>
        region.Collectives.AllGather(slice, Sequence, slice.shape[Sequence] * region.Collectives.WorldSize);

    private static Tensor ScatterSequence(ParallelRegion region, Tensor whole) => region.Collectives.ReduceScatter(whole, Sequence);

    private static void CheckActivation(Tensor tensor)
    {
        if (tensor.dim() == 3) return;
        throw new ArgumentException(
            $"sequence parallelism divides dimension {Sequence} of activations [n, t, w], but one has the shape [{string.Join(", ", tensor.shape)}]: turn it off for this model");
    }

    private void CheckLength(long positions)
    {
        if (positions % collectives.WorldSize == 0) return;
        throw new ArgumentException(
            $"the sequence has {positions} positions, which {collectives.WorldSize} ranks cannot share equally ({positions} = {collectives.WorldSize} * {positions / collectives.WorldSize} + {positions % collectives.WorldSize}): " +
            $"choose a length that is a multiple of {collectives.WorldSize}, or turn sequence parallelism off");
    }

    /// <summary>One operation forward, the other backward.</summary>
    private sealed class Conjugate : autograd.SingleTensorFunction<Conjugate>
    {
        public override string Name => nameof(Conjugate);

        public static Tensor Apply(ParallelRegion region, Tensor input, Func<ParallelRegion, Tensor, Tensor> forward, Func<ParallelRegion, Tensor, Tensor> backward) =>
            apply(input, new Call(region, forward, backward, input.shape));

        public override Tensor forward(autograd.AutogradContext ctx, params object[] vars)
        {
            var call = (Call)vars[1];
            ctx.save_data(nameof(Call), call);
            return call.Forward(call.Region, (Tensor)vars[0]);
        }

        public override List<Tensor> backward(autograd.AutogradContext ctx, Tensor grad_output)
        {
            var call = (Call)ctx.get_data(nameof(Call));
            return [call.Region.RunBackward(grad_output, gradient => call.Backward(call.Region, gradient), call.Shape), null!];
        }

        private sealed record Call(
            ParallelRegion Region, Func<ParallelRegion, Tensor, Tensor> Forward, Func<ParallelRegion, Tensor, Tensor> Backward, long[] Shape);
    }
}

using static TorchSharp.torch;

namespace Skein.Training.Gradients;

/// <summary>TorchSharp has no hooks on tensors, so an identity function tells when a backward pass comes by.</summary>
internal static class BackwardNotice
{
    /// <summary>The same tensor for the rest of the forward pass.</summary>
    /// <param name="tensor">Needs a gradient.</param>
    /// <param name="reached">Called in the backward pass, where an exception would end the process: must not throw.</param>
    public static Tensor At(Tensor tensor, Action reached) => Identity.apply(tensor, reached);

    private sealed class Identity : autograd.SingleTensorFunction<Identity>
    {
        private const string Reached = "reached";

        public override string Name => nameof(BackwardNotice);

        public override Tensor forward(autograd.AutogradContext ctx, params object[] vars)
        {
            ctx.save_data(Reached, vars[1]);
            return ((Tensor)vars[0]).alias();
        }

        public override List<Tensor> backward(autograd.AutogradContext ctx, Tensor grad_output)
        {
            ((Action)ctx.get_data(Reached))();
            return [grad_output, null!];
        }
    }
}

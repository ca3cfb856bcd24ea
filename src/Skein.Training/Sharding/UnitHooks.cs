using Skein.Training.Gradients;
using static TorchSharp.torch;

namespace Skein.Training.Sharding;

/// <summary>
/// Tells when a module's forward and backward begin and end. TorchSharp has no hooks on tensors, so identity functions before
/// and behind the module tell of the backward pass; <see cref="BackwardObserver"/> says why all gradients of the module are
/// there when the one before it runs.
/// </summary>
internal sealed class UnitHooks : IDisposable
{
    private readonly List<Action> unhook = [];
    private readonly Action backwardBegins;
    private readonly Action backwardEnds;

    /// <param name="module">The module.</param>
    /// <param name="forwardBegins">May throw.</param>
    /// <param name="forwardEnds">May throw; told whether a backward pass can follow.</param>
    /// <param name="backwardBegins">Must not throw.</param>
    /// <param name="backwardEnds">Must not throw. Not called where the module's input needs no gradient.</param>
    public UnitHooks(nn.Module<Tensor, Tensor> module, Action forwardBegins, Action<bool> forwardEnds, Action backwardBegins, Action backwardEnds)
    {
        this.backwardBegins = backwardBegins;
        this.backwardEnds = backwardEnds;
        unhook.Add(module.register_forward_pre_hook((_, input) =>
        {
            forwardBegins();
            return is_grad_enabled() && input.requires_grad ? Identity.apply(input, this, false) : input;
        }).remove);
        unhook.Add(module.register_forward_hook((_, _, output) =>
        {
            bool hasGraph = is_grad_enabled() && output.requires_grad;
            forwardEnds(hasGraph);
            return hasGraph ? Identity.apply(output, this, true) : output;
        }).remove);
    }

    public void Dispose()
    {
        foreach (Action remove in unhook) remove();
        unhook.Clear();
    }

    private sealed class Identity : autograd.SingleTensorFunction<Identity>
    {
        public override string Name => nameof(Identity);

        public override Tensor forward(autograd.AutogradContext ctx, params object[] vars)
        {
            ctx.save_data("arguments", vars);
            return ((Tensor)vars[0]).alias();
        }

        public override List<Tensor> backward(autograd.AutogradContext ctx, Tensor grad_output)
        {
            var arguments = (object[])ctx.get_data("arguments");
            var hooks = (UnitHooks)arguments[1];
            if ((bool)arguments[2]) hooks.backwardBegins();
            else hooks.backwardEnds();
            return [grad_output, null!, null!];
        }
    }
}

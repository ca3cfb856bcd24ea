using Skein.Training.Gradients;
using static TorchSharp.torch;

namespace Skein.Training.Sharding;

/// <summary>
/// Tells when a module's forward and backward begin and end. <see cref="BackwardObserver"/> says why all gradients of the module are
/// there when the backward pass comes to its input.
/// </summary>
internal sealed class UnitHooks : IDisposable
{
    private readonly List<Action> unhook = [];

    /// <param name="module">The module.</param>
    /// <param name="forwardBegins">May throw.</param>
    /// <param name="forwardEnds">May throw; told whether a backward pass can follow.</param>
    /// <param name="backwardBegins">Must not throw.</param>
    /// <param name="backwardEnds">Must not throw. Not called where the module's input needs no gradient.</param>
    public UnitHooks(nn.Module<Tensor, Tensor> module, Action forwardBegins, Action<bool> forwardEnds, Action backwardBegins, Action backwardEnds)
    {
        unhook.Add(module.register_forward_pre_hook((_, input) =>
        {
            forwardBegins();
            return is_grad_enabled() && input.requires_grad ? BackwardNotice.At(input, backwardEnds) : input;
        }).remove);
        unhook.Add(module.register_forward_hook((_, _, output) =>
        {
            bool hasGraph = is_grad_enabled() && output.requires_grad;
            forwardEnds(hasGraph);
            return hasGraph ? BackwardNotice.At(output, backwardBegins) : output;
        }).remove);
    }

    public void Dispose()
    {
        foreach (Action remove in unhook) remove();
        unhook.Clear();
    }
}

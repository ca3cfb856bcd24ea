using Skein.Training.Gradients;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.Pipeline;

/// <summary>
/// Stands in for a linear layer, with its parameters: a backward pass through it gives the input's gradient only, and leaves what
/// the weights' gradients need to <see cref="DeferredGradients"/>.
/// </summary>
internal sealed class DeferredLinear : nn.Module<Tensor, Tensor>
{
    private readonly Parameter weight;
    private readonly Parameter? bias;
    private readonly DeferredGradients gradients;

    public DeferredLinear(Linear linear, DeferredGradients gradients) : base(nameof(DeferredLinear))
    {
        this.gradients = gradients;
        weight = linear.weight;
        bias = linear.bias;
        register_parameter("weight", weight);
        if (bias is not null) register_parameter("bias", bias);
        train(linear.training);
    }

    public override Tensor forward(Tensor input) => is_grad_enabled() && weight.requires_grad
        ? Function.apply(input, gradients.Anchor.Input, this)
        : nn.functional.linear(input, weight, bias);

    /// <summary>Adds to the parameters' gradients.</summary>
    public void Accumulate(Tensor input, Tensor outputGradient)
    {
        // [rows, features]
        Tensor rows = input.reshape(-1, input.shape[^1]), gradient = outputGradient.reshape(-1, outputGradient.shape[^1]);
        using (Tensor? present = weight.grad)
        {
            if (present is null) weight.grad = gradient.t().mm(rows);
            else present.addmm_(gradient.t(), rows);
        }

        if (bias is not { requires_grad: true }) return;
        using (Tensor? present = bias.grad)
        {
            if (present is null) bias.grad = gradient.sum(dim: 0);
            else present.add_(gradient.sum(dim: 0));
        }
    }

    private sealed class Function : autograd.SingleTensorFunction<Function>
    {
        public override string Name => nameof(DeferredLinear);

        public override Tensor forward(autograd.AutogradContext ctx, params object[] vars)
        {
            var input = (Tensor)vars[0];
            ctx.save_for_backward([input]);
            var layer = (DeferredLinear)vars[2];
            ctx.save_data("layer", layer);
            ctx.save_data("input needs it", input.requires_grad);
            return nn.functional.linear(input, layer.weight, layer.bias);
        }

        public override List<Tensor> backward(autograd.AutogradContext ctx, Tensor grad_output)
        {
            var layer = (DeferredLinear)ctx.get_data("layer");
            Tensor? inputGradient = null, input = null;
            layer.gradients.Failure.Run(() =>
            {
                using var noGradient = no_grad();
                input = ctx.get_saved_variables()[0];
                if ((bool)ctx.get_data("input needs it")) inputGradient = grad_output.matmul(layer.weight);
                layer.gradients.Add(layer, input, grad_output);
            });
            // Where nobody asks for the gradient, or it is missing after an error, anything of its shape will do.
            return [inputGradient ?? input ?? grad_output, layer.gradients.Anchor.Gradient, null!];
        }
    }
}

/// <summary>
/// The weights' gradients of linear layers that are still to be computed: the parts W of backward passes (Qi et al. 2023, section
/// 2). Other parameters get theirs with the input's gradients. Not thread-safe.
/// </summary>
internal sealed class DeferredGradients
{
    private readonly Dictionary<(int Chunk, int MicroBatch), List<(DeferredLinear Layer, Tensor Input, Tensor OutputGradient)>> waiting = [];
    private List<(DeferredLinear, Tensor, Tensor)>? collecting;

    /// <summary>What went wrong inside a backward pass.</summary>
    public BackwardFailure Failure { get; } = new();

    public GraphAnchor Anchor { get; } = new();

    /// <summary>Puts deferring layers in the place of the linear ones, wherever the module that holds one allows another.</summary>
    public void TakeOver(nn.Module root)
    {
        foreach ((string name, nn.Module module) in root.named_modules().ToArray())
        {
            if (module is Linear linear && ModuleTree.CanReplace(root, name)) ModuleTree.Replace(root, name, new DeferredLinear(linear, this));
        }
    }

    /// <summary>Backward passes until the result is disposed are of this micro-batch.</summary>
    public void Collect(int chunk, int microBatch) => waiting.Add((chunk, microBatch), collecting = []);

    /// <summary>The backward pass is over.</summary>
    public void Stop()
    {
        collecting = null;
        Failure.ThrowIfAny();
    }

    /// <summary>Computes what was put off of a micro-batch.</summary>
    public void Compute(int chunk, int microBatch)
    {
        if (!waiting.Remove((chunk, microBatch), out var entries)) return;
        using var noGradient = no_grad();
        foreach ((DeferredLinear layer, Tensor input, Tensor outputGradient) in entries)
        {
            using DisposeScope scope = NewDisposeScope();
            layer.Accumulate(input, outputGradient);
            input.Dispose();
            outputGradient.Dispose();
        }
    }

    public void Add(DeferredLinear layer, Tensor input, Tensor outputGradient)
    {
        if (collecting is null) layer.Accumulate(input, outputGradient);
        else collecting.Add((layer, input.detach().DetachFromDisposeScope(), outputGradient.detach().DetachFromDisposeScope()));
    }
}

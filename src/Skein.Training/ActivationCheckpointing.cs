using Skein.Training.Gradients;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training;

/// <summary>
/// Keeps only the inputs of a model's layers for the backward pass, which computes each layer again: memory for time (Chen et al.
/// 2016, "Training deep nets with sublinear memory cost"). Gradients are bitwise the same, random numbers on the CPU included.
/// </summary>
/// <remarks>The layers must not change their input in place, nor depend on state that changes between forward and backward.</remarks>
public static class ActivationCheckpointing
{
    /// <summary>Does so with every layer of <paramref name="model"/>. The names of its parameters stay. Before a strategy is attached.</summary>
    /// <exception cref="ArgumentException">The model is neither a <see cref="Sequential"/> nor an <see cref="ILayeredModel"/>.</exception>
    public static void Apply(nn.Module model)
    {
        ArgumentNullException.ThrowIfNull(model);
        var pass = new RecomputingPass();
        foreach ((string name, nn.Module<Tensor, Tensor> layer) in ModuleTree.LayersOf(model))
        {
            if (layer is not RecomputedLayer) ModuleTree.Replace(model, name, new RecomputedLayer(layer, pass));
        }
    }
}

/// <summary>What the layers of a model share that are computed again in its backward passes.</summary>
internal sealed class RecomputingPass
{
    private Tensor? last;

    public BackwardFailure Failure { get; } = new();

    public GraphAnchor Anchor { get; } = new();

    /// <summary>Keeps a gradient for LibTorch to take, which it has once the next one comes; left to dispose scopes, all would live until the pass is over.</summary>
    public void HandOver(Tensor? gradient)
    {
        last?.Dispose();
        last = gradient;
    }
}

/// <summary>Stands in for a layer, under whose name the layer's own parameters and modules appear.</summary>
internal sealed class RecomputedLayer(nn.Module<Tensor, Tensor> layer, RecomputingPass pass)
    : nn.Module<Tensor, Tensor>(nameof(RecomputedLayer)), IRunsInBackward
{
    public nn.Module<Tensor, Tensor> Layer => layer;

    public BackwardFailure Failure => pass.Failure;

    public RecomputingPass Pass => pass;

    public override bool training => layer.training;

    /// <summary>Whether any of the layer's modules is in training mode, and draws random numbers or keeps statistics.</summary>
    public bool Trains => layer.modules().Prepend(layer).Any(static module => module.training);

    /// <summary>The buffers that a pass may update.</summary>
    public IEnumerable<Tensor> Statistics => Trains ? layer.buffers() : [];

    public override Tensor forward(Tensor input)
    {
        pass.Failure.ThrowIfAny();
        if (!is_grad_enabled()) return layer.call(input);
        return input.requires_grad || layer.parameters().Any(static parameter => parameter.requires_grad)
            ? Recomputation.apply(input, pass.Anchor.Input, this)
            : layer.call(input);
    }

    public override IEnumerable<(string name, Parameter parameter)> named_parameters(bool recurse = true) => layer.named_parameters(recurse);

    public override IEnumerable<(string name, Tensor buffer)> named_buffers(bool recurse = true, bool include_nonpersistent = true) => layer.named_buffers(recurse, include_nonpersistent);

    public override IEnumerable<(string name, nn.Module module)> named_children() => layer.named_children();

    public override IEnumerable<(string name, nn.Module module)> named_modules() => layer.named_modules();

    public override void train(bool train = true)
    {
        base.train(train);
        layer.train(train);
    }

    public override nn.Module apply(Action<nn.Module> fn)
    {
        layer.apply(fn);
        return this;
    }

    protected override nn.Module _to(Device device, ScalarType dtype, bool non_blocking)
    {
        layer.to(device, dtype, non_blocking: non_blocking);
        return this;
    }

    protected override nn.Module _to(DeviceType deviceType, int deviceIndex, bool non_blocking)
    {
        layer.to(deviceType, deviceIndex, non_blocking: non_blocking);
        return this;
    }

    protected override nn.Module _to(ScalarType dtype, bool non_blocking)
    {
        layer.to(dtype, non_blocking: non_blocking);
        return this;
    }

    protected override void Dispose(bool disposing)
    {
        if (disposing) layer.Dispose();
        base.Dispose(disposing);
    }

    private sealed class Recomputation : autograd.SingleTensorFunction<Recomputation>
    {
        private const string Layer = "layer", NeedsGradient = "needs gradient", Generator = "generator";

        public override string Name => nameof(Recomputation);

        public override Tensor forward(autograd.AutogradContext ctx, params object[] vars)
        {
            var input = (Tensor)vars[0];
            var wrapper = (RecomputedLayer)vars[2];
            // The generator's state as bytes: a tensor would live until somebody collects it.
            if (wrapper.Trains) ctx.save_data(Generator, GeneratorState());
            ctx.save_for_backward([input]);
            ctx.save_data(Layer, wrapper);
            ctx.save_data(NeedsGradient, input.requires_grad);
            Tensor output = wrapper.Layer.call(input);
            return ReferenceEquals(output, input) ? output.alias() : output;
        }

        public override List<Tensor> backward(autograd.AutogradContext ctx, Tensor grad_output)
        {
            var wrapper = (RecomputedLayer)ctx.get_data(Layer);
            Tensor? inputGradient = null, saved = null;
            wrapper.Pass.Failure.Run(() =>
            {
                using var scope = NewDisposeScope();
                using var graph = enable_grad();
                saved = ctx.get_saved_variables()[0].MoveToOuterDisposeScope();
                Tensor input = saved.detach();
                if ((bool)ctx.get_data(NeedsGradient)) input.requires_grad_(true);
                // The first pass has updated running statistics already.
                (Tensor Buffer, Tensor Value)[] buffers = [.. wrapper.Statistics.Select(static buffer => (buffer, buffer.clone()))];
                Tensor output = Again(wrapper, input, (byte[]?)ctx.get_data(Generator));
                if (output.requires_grad) output.backward([grad_output]);
                // After the backward pass, which needs them as it has left them.
                using (no_grad())
                {
                    foreach ((Tensor buffer, Tensor value) in buffers) buffer.copy_(value);
                }

                inputGradient = input.grad?.DetachFromDisposeScope();
            });
            wrapper.Pass.HandOver(inputGradient);
            if (saved is not null) grad_output.Dispose();
            // Where nobody asks for the gradient, or it is missing after an error, anything of its shape will do.
            return [inputGradient ?? saved ?? grad_output, wrapper.Pass.Anchor.Gradient, null!];
        }

        private static Tensor Again(RecomputedLayer wrapper, Tensor input, byte[]? generator)
        {
            if (generator is null) return wrapper.Layer.call(input);
            byte[] now = GeneratorState();
            Restore(generator);
            try
            {
                return wrapper.Layer.call(input);
            }
            finally
            {
                Restore(now);
            }
        }

        private static byte[] GeneratorState()
        {
            using Tensor state = get_rng_state();
            return state.bytes.ToArray();
        }

        private static void Restore(byte[] state)
        {
            using Tensor tensor = torch.tensor(state, uint8);
            set_rng_state(tensor);
        }
    }
}

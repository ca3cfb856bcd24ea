using System.Diagnostics;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.Pipeline;

/// <summary>What each layer costs: time or multiplications, and memory.</summary>
internal static class LayerCosts
{
    private const int Repetitions = 3;

    // A parameter, its gradient, and two moments of it.
    private const int CopiesOfParameters = 4;

    /// <summary>Counts the multiplications and outputs of each layer for one micro-batch of <paramref name="sample"/>, or for one sample of unknown shape.</summary>
    public static (double[] Costs, long[] Bytes) Estimate(IReadOnlyList<nn.Module<Tensor, Tensor>> layers, Tensor? sample, int inFlight)
    {
        double[] costs = [.. layers.Select(static layer => 1.0 + Modules(layer).SelectMany(Matrices).Sum(static matrix => 2.0 * matrix.numel()))];
        long[] bytes = [.. layers.Select(static layer => CopiesOfParameters * layer.parameters().Sum(static parameter => parameter.numel() * parameter.ElementSize))];
        if (sample is null) return (costs, bytes);

        using var noGradient = no_grad();
        double cost = 0;
        long held = 0;
        foreach ((int index, nn.Module<Tensor, Tensor> layer) in layers.Index())
        {
            nn.Module<Tensor, Tensor>[] counted = [.. Modules(layer).OfType<nn.Module<Tensor, Tensor>>()];
            Action[] unhook = [.. counted.Select(module =>
            {
                var remover = module.register_forward_hook((_, _, output) =>
                {
                    cost += output.numel() + Matrices(module).Sum(matrix => 2.0 * output.numel() * matrix.numel() / matrix.shape[0]);
                    held += output.numel() * output.ElementSize;
                    return output;
                });
                return (Action)remover.remove;
            })];
            (cost, held) = (0, 0);
            try
            {
                sample = layer.call(sample);
            }
            finally
            {
                foreach (Action remove in unhook) remove();
            }

            costs[index] = cost;
            bytes[index] += inFlight * held;
        }

        return (costs, bytes);
    }

    /// <summary>Seconds of forward and backward of each layer on <paramref name="sample"/>, the shortest of some. Leaves no gradients.</summary>
    public static double[] Measure(IReadOnlyList<nn.Module<Tensor, Tensor>> layers, Tensor sample)
    {
        var seconds = new double[layers.Count];
        Array.Fill(seconds, double.PositiveInfinity);
        for (int repetition = 0; repetition < Repetitions; repetition++)
        {
            using DisposeScope scope = NewDisposeScope();
            Tensor input = sample;
            for (int i = 0; i < layers.Count; i++)
            {
                long start = Stopwatch.GetTimestamp();
                input = input.is_floating_point() ? input.detach().requires_grad_(true) : input.detach();
                Tensor output = layers[i].call(input);
                if (output.requires_grad) output.backward([ones_like(output)]);
                seconds[i] = Math.Min(seconds[i], Stopwatch.GetElapsedTime(start).TotalSeconds);
                input = output;
            }
        }

        foreach (Parameter parameter in layers.SelectMany(static layer => layer.parameters())) parameter.grad = null;
        return seconds;
    }

    // An embedding's weights are looked up, not multiplied.
    private static IEnumerable<Parameter> Matrices(nn.Module module) =>
        module is Embedding ? [] : module.named_parameters(recurse: false).Select(static entry => entry.parameter).Where(static parameter => parameter.dim() >= 2);

    private static IEnumerable<nn.Module> Modules(nn.Module layer) =>
        layer.named_modules().Select(static entry => entry.module).Append(layer).Distinct<nn.Module>(ReferenceEqualityComparer.Instance);
}

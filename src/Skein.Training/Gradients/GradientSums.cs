using Skein.Training.Optimizers;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.Gradients;

/// <summary>
/// Adds micro-batches' gradients up in single precision where the parameters are in half precision, in which a sum stops growing after a
/// few hundred equal parts. Not thread-safe.
/// </summary>
internal sealed class GradientSums : IDisposable
{
    private readonly Dictionary<Parameter, Tensor> sums = new(ModelParameters.Identity);

    /// <summary>Whether anything has been taken since the last <see cref="Give"/>.</summary>
    public bool HasAny => sums.Count > 0;

    /// <summary>Takes the gradients of those parameters that need it.</summary>
    public void Take(IReadOnlyList<Parameter> parameters)
    {
        foreach (Parameter parameter in parameters)
        {
            if (!MasterWeights.IsNeededFor(parameter)) continue;
            using Tensor? gradient = parameter.grad;
            if (gradient is null) continue;
            if (sums.TryGetValue(parameter, out Tensor? sum)) sum.add_(gradient);
            else sums.Add(parameter, gradient.to(float32).DetachFromDisposeScope());
            parameter.grad = null;
        }
    }

    /// <summary>Hands the sums to the parameters, each rounded once.</summary>
    public void Give()
    {
        foreach ((Parameter parameter, Tensor sum) in sums)
        {
            using Tensor rounded = sum.to(parameter.dtype);
            parameter.grad = rounded;
        }

        Clear();
    }

    /// <summary>Forgets what has been taken.</summary>
    public void Clear()
    {
        foreach (Tensor sum in sums.Values) sum.Dispose();
        sums.Clear();
    }

    public void Dispose() => Clear();
}

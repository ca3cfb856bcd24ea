using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.Optimizers;

/// <summary>
/// Single-precision copies of parameters in half precision: the optimizer updates the copies, so that updates too small for
/// half precision add up (Micikevicius et al. 2018, "Mixed precision training", section 3.1). Parameters in single precision
/// stand for themselves. Not thread-safe.
/// </summary>
internal sealed class MasterWeights : IDisposable
{
    private readonly List<(Parameter Half, Parameter Master)> pairs = [];
    private readonly Dictionary<Parameter, Parameter> masterOf = new(ReferenceEqualityComparer.Instance);

    public MasterWeights(IReadOnlyList<Parameter> parameters)
    {
        Parameters = [.. parameters.Select(Add)];
    }

    /// <summary>What the optimizer updates, in the order of the parameters.</summary>
    public IReadOnlyList<Parameter> Parameters { get; }

    public static bool IsNeededFor(Parameter parameter) => parameter.dtype is ScalarType.BFloat16 or ScalarType.Float16;

    /// <summary>The parameter that has the gradient of <paramref name="parameter"/> after <see cref="TakeGradients"/>.</summary>
    public Parameter Of(Parameter parameter) => masterOf.GetValueOrDefault(parameter, parameter);

    /// <summary>Moves the gradients to the copies.</summary>
    public void TakeGradients()
    {
        foreach ((Parameter half, Parameter master) in pairs)
        {
            using Tensor? gradient = half.grad;
            using Tensor? wide = gradient?.to(float32);
            master.grad = wide;
            half.grad = null;
        }
    }

    /// <summary>Rounds the copies into the parameters.</summary>
    public void Give()
    {
        using var noGradient = no_grad();
        foreach ((Parameter half, Parameter master) in pairs) half.copy_(master);
    }

    public void Dispose()
    {
        foreach ((_, Parameter master) in pairs) master.Dispose();
    }

    private Parameter Add(Parameter parameter)
    {
        if (!IsNeededFor(parameter)) return parameter;
        using Tensor wide = parameter.detach().to(float32);
        var master = (Parameter)new Parameter(wide).DetachFromDisposeScope();
        pairs.Add((parameter, master));
        return masterOf[parameter] = master;
    }
}

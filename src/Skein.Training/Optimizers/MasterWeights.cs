using TorchSharp;
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
    private readonly Dictionary<Parameter, Parameter> masters = new(ModelParameters.Identity);

    public static bool IsNeededFor(Parameter parameter) => parameter.dtype is ScalarType.BFloat16 or ScalarType.Float16;

    /// <summary>
    /// What the optimizer updates in the place of <paramref name="parameters"/>, in their order: a copy stays the same one, and takes
    /// values that were put into its parameter since.
    /// </summary>
    public IReadOnlyList<Parameter> Of(IReadOnlyList<Parameter> parameters) => [.. parameters.Select(Follow)];

    /// <summary>The parameter that has the gradient of <paramref name="parameter"/> after <see cref="TakeGradients"/>.</summary>
    public Parameter Of(Parameter parameter) => masters.GetValueOrDefault(parameter, parameter);

    /// <summary>Moves the gradients to the copies.</summary>
    public void TakeGradients()
    {
        foreach ((Parameter half, Parameter master) in masters)
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
        foreach ((Parameter half, Parameter master) in masters) half.copy_(master);
    }

    /// <summary>Overwrites <paramref name="wide"/> where <paramref name="narrow"/> is no longer what it rounds to.</summary>
    public static void TakeChanges(Tensor wide, Tensor narrow)
    {
        using DisposeScope scope = NewDisposeScope();
        using var noGradient = no_grad();
        Tensor changed = narrow.ne(wide.to(narrow.dtype).to(narrow.device)).to(wide.device);
        wide.copy_(where(changed, narrow.to(wide.device).to(wide.dtype), wide));
    }

    public void Dispose()
    {
        foreach (Parameter master in masters.Values) master.Dispose();
        masters.Clear();
    }

    private Parameter Follow(Parameter parameter)
    {
        if (!IsNeededFor(parameter)) return parameter;
        if (masters.TryGetValue(parameter, out Parameter? master))
        {
            TakeChanges(master, parameter);
            return master;
        }

        using Tensor wide = parameter.detach().to(float32);
        return masters[parameter] = (Parameter)new Parameter(wide).DetachFromDisposeScope();
    }
}

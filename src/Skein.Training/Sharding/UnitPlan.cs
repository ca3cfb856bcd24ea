using Skein.Training.Gradients;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.Sharding;

/// <summary>Which parameters make up a unit, and whose forward needs them.</summary>
/// <param name="Name">For messages.</param>
/// <param name="Modules">
/// The modules: several where parameters are tied; none where only the end of the backward pass tells that gradients are complete.
/// </param>
/// <param name="Parameters">Of one element type and device, all trained or all frozen.</param>
internal sealed record UnitPlan(string Name, IReadOnlyList<nn.Module<Tensor, Tensor>> Modules, IReadOnlyList<NamedParameter> Parameters)
{
    /// <summary>
    /// The units of a model. Parameters that several of the chosen modules have, as tied embeddings are, make a unit of their own;
    /// those that none of them has are needed by the model as a whole.
    /// </summary>
    public static IReadOnlyList<UnitPlan> Of(nn.Module model, ShardedOptions options)
    {
        (string Name, nn.Module Module)[] chosen = options.Units is { } units
            ? [.. model.named_modules().Where(entry => units(entry.name, entry.module))]
            : [.. LayersOf(model)];
        var owners = new Dictionary<Parameter, List<int>>(ModelParameters.Identity);
        for (int i = 0; i < chosen.Length; i++)
        {
            if (chosen[i].Module is not nn.Module<Tensor, Tensor>) throw new NotSupportedException($"module '{chosen[i].Name}' does not map one tensor to one, so that it cannot be a unit by itself: leave it out of ShardedOptions.Units");
            foreach (Parameter parameter in chosen[i].Module.parameters())
            {
                if (!owners.TryGetValue(parameter, out List<int>? list)) owners[parameter] = list = [];
                if (list.Count == 0 || list[^1] != i) list.Add(i);
            }
        }

        var plan = new List<UnitPlan>();
        // Frozen parameters are divided as well, but by themselves: an optimizer that decays weights would change them with the others.
        foreach (IGrouping<(string Owners, ScalarType, string, bool), NamedParameter> unit in ModelParameters.Of(model).GroupBy(entry =>
            (string.Join(',', owners.GetValueOrDefault(entry.Parameter, [])), Checked(entry), entry.Parameter.device.ToString(), entry.Parameter.requires_grad)))
        {
            List<int> those = owners.GetValueOrDefault(unit.First().Parameter, []);
            plan.Add(those.Count > 0
                ? new UnitPlan(string.Join(" and ", those.Select(index => chosen[index].Name)), [.. those.Select(index => (nn.Module<Tensor, Tensor>)chosen[index].Module)], [.. unit])
                : new UnitPlan("the model", model is nn.Module<Tensor, Tensor> mapping ? [mapping] : [], [.. unit]));
        }

        if (options.Stage == ZeroStage.Parameters && plan.Any(static unit => unit.Modules.Count == 0))
        {
            throw new NotSupportedException($"the model is a {model.GetType().Name}, whose forward does not map one tensor to one, so that nothing tells when its own parameters are needed: use stage 2, or let ShardedOptions.Units name modules that do and have all parameters");
        }

        return plan;
    }

    private static IEnumerable<(string Name, nn.Module Module)> LayersOf(nn.Module model) => model switch
    {
        ILayeredModel layered => layered.Layers.Select(static (layer, index) => ($"layer {index}", (nn.Module)layer)),
        Sequential sequential => sequential.named_children(),
        _ => [],
    };

    private static ScalarType Checked(NamedParameter entry) => entry.Parameter.dtype is ScalarType.Float32 or ScalarType.BFloat16 or ScalarType.Float16
        ? entry.Parameter.dtype
        : throw new NotSupportedException($"parameter '{entry.Name}' is {entry.Parameter.dtype}; models in Float32, BFloat16 and Float16 can be divided");
}

using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.Optimizers;

/// <summary>Which parameters an optimizer updates.</summary>
internal static class OptimizerParameters
{
    /// <summary>
    /// Leaves each parameter in an optimizer once, so that a step updates it once: TorchSharp lists one that layers share as often as they
    /// do. Lists also cost nothing, where TorchSharp would walk the module tree again in every step.
    /// </summary>
    /// <returns>All of them.</returns>
    public static IReadOnlySet<Parameter> Distinct(optim.Optimizer optimizer)
    {
        var seen = new HashSet<Parameter>(ModelParameters.Identity);
        foreach (ParamGroup group in optimizer.ParamGroups.OfType<ParamGroup>()) group.Parameters = [.. group.Parameters.Where(seen.Add)];
        return seen;
    }

    /// <summary>Puts parameters that an optimizer has not yet into its first group, with fresh state.</summary>
    /// <exception cref="NotSupportedException">It takes no more.</exception>
    public static void Add(optim.Optimizer optimizer, Parameter[] added)
    {
        if (added.Length == 0) return;
        if (optimizer is not OptimizerHelper || optimizer.ParamGroups is not IList<ParamGroup> groups)
        {
            throw new NotSupportedException(
                $"more parameters are to be trained than in the last fit, but a {optimizer.GetType().Name} takes on no others: make a new Trainer");
        }

        // TorchSharp makes state for new groups only; with the first one's options, which it would begin anew, they then become one.
        ParamGroup first = groups[0];
        double initial = first.InitialLearningRate;
        var group = (ParamGroup)Activator.CreateInstance(first.GetType())!;
        (group.Parameters, group.Options) = (added, first.Options);
        optimizer.add_param_group(group);
        groups.Remove(group);
        first.Parameters = [.. first.Parameters, .. added];
        first.InitialLearningRate = initial;
    }
}

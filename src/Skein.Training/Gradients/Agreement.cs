using Skein.Collectives;

namespace Skein.Training.Gradients;

/// <summary>What the ranks of a group agree on.</summary>
internal static class Agreement
{
    /// <summary>Whether all ranks say yes. Collective.</summary>
    public static bool All(ProcessGroup group, bool own)
    {
        Span<int> all = [own ? 1 : 0];
        group.AllReduce(all, ReduceOperation.Min);
        return all[0] != 0;
    }

    /// <summary>The mean of the ranks' losses and weights, and whether any wants to stop. Collective.</summary>
    public static StepOutcome Average(ProcessGroup group, StepOutcome own)
    {
        Span<float> scalars = [own.Loss, own.Weight, own.Stop ? 1 : 0];
        group.AllReduce(scalars, ReduceOperation.Average);
        return new StepOutcome(scalars[0], scalars[2] > 0, scalars[1]);
    }
}

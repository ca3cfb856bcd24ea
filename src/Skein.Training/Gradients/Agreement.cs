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
}

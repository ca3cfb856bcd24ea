using Skein.Collectives;

namespace Skein.Training.Gradients;

/// <summary>Whether communication runs beside computation.</summary>
internal static class Overlap
{
    /// <summary>
    /// What all ranks do: as any of them wants, or where nothing is asked for, unless all are on one host and keep its cores busy,
    /// where there is nothing to gain. Collective.
    /// </summary>
    public static bool Decide(ProcessGroup group, bool? wanted)
    {
        bool idleCores = Environment.ProcessorCount > group.LocalWorldSize;
        bool network = group.LocalWorldSize < group.WorldSize;
        return !Agreement.All(group, !(wanted ?? (idleCores || network)));
    }
}

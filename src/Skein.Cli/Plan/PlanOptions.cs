using Skein.Cli.Train;
using Skein.Collectives;

namespace Skein.Cli.Plan;

/// <summary>What <c>skein plan</c> was asked for; checked.</summary>
internal sealed record PlanOptions
{
    /// <summary>The training that is planned, as one worker would do it.</summary>
    public required TrainPlan Training { get; init; }

    /// <summary>Options of <c>skein train</c> that every plan's command has.</summary>
    public required IReadOnlyList<string> TrainArguments { get; init; }

    /// <summary>Workers on this machine.</summary>
    public required int Workers { get; init; }

    /// <summary>What each may have.</summary>
    public required long MemoryBytes { get; init; }

    /// <summary>The link between them; null: as it is measured here.</summary>
    public NetworkEmulation? Link { get; init; }

    /// <summary>Steps of the best plan to run; null: none.</summary>
    public int? CheckSteps { get; init; }

    public required bool Json { get; init; }

    public required bool Verbose { get; init; }
}

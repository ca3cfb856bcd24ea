using Skein.Workloads;

namespace Skein.Cli.Train;

/// <summary>Brings a workload's data to this machine.</summary>
internal static class ExternalFiles
{
    /// <summary>Does nothing when the data are part of Skein or already here.</summary>
    public static async Task FetchAsync(Workload workload, CancellationToken cancellationToken)
    {
        if (workload.External is not { } data || data.Find() is not null) return;
        using var lines = new FetchLines();
        await data.FetchAsync(lines, cancellationToken);
    }
}

using System.Diagnostics;
using Skein.Training;

namespace Skein.Cli.Train;

/// <summary>What training cost one rank.</summary>
internal sealed record RankUsage(int Rank, long Samples, double ComputeSeconds, double CommunicationSeconds, long BytesSent, long PeakRssBytes)
{
    /// <summary>Every rank's, in order of rank, from this rank's. All ranks call it.</summary>
    public static RankUsage[] Gather(Strategy strategy, TrainingReport report, long bytesSent)
    {
        using Process process = Process.GetCurrentProcess();
        // Counts stay exact in a double up to 9 PB.
        double[] mine = [report.Samples, report.ComputeTime.TotalSeconds, report.CommunicationTime.TotalSeconds, bytesSent, process.PeakWorkingSet64];
        return [.. strategy.Gather(mine).Select((fields, rank) => new RankUsage(rank, (long)fields[0], fields[1], fields[2], (long)fields[3], (long)fields[4]))];
    }
}

using Skein.Training;
using Skein.Training.Compression;

namespace Skein.Cli.Train;

/// <summary>What compression did on rank 0, for the summary.</summary>
internal static class CompressionUsage
{
    public static TrainSummary Add(TrainSummary summary, Strategy strategy, CompressionOptions asked)
    {
        (CompressionRules? rules, CompressionStatistics statistics, long? skipped) = Of(strategy, asked);
        return summary with
        {
            Compression = $"{rules}",
            CompressionRatio = statistics.Ratio,
            CompressionSeconds = statistics.ComputeTime.TotalSeconds,
            CompressionError = statistics.RelativeError,
            SkippedSteps = skipped,
        };
    }

    private static (CompressionRules? Rules, CompressionStatistics Statistics, long? Skipped) Of(Strategy strategy, CompressionOptions asked) =>
        strategy switch
        {
            DataParallel parallel => (parallel.Compression, parallel.CompressionStatistics, (long?)parallel.SkippedSteps),
            Gossip gossip => (asked.Rules, gossip.CompressionStatistics, null),
            PipelineParallel pipeline => Of(pipeline.Inner, asked),
            TensorParallel tensor => Of(tensor.Inner, asked),
            LocalSgd local => (asked.Rules, local.CompressionStatistics, null),
            _ => (asked.Rules, default, null),
        };
}

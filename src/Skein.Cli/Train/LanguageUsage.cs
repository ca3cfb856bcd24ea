using Skein.Training;
using Skein.Workloads;
using static TorchSharp.torch;

namespace Skein.Cli.Train;

/// <summary>What a summary says of a language model.</summary>
internal static class LanguageUsage
{
    public const string ModelFile = "model.safetensors";

    /// <summary>The floating-point operations in a second that all workers together could do; 0 where nobody asks. All ranks call it, at the same time.</summary>
    public static double MeasurePeak(Strategy strategy, Workload workload, Device device) => workload.Language is null
        ? 0
        // At once on all: workers that share cores then share what these can do.
        : strategy.Gather([PeakFlops.Measure(device)]).Sum(static rank => rank[0]);

    public static TrainSummary Add(TrainSummary summary, Workload workload, double peak)
    {
        double tokensPerSecond = summary.SamplesPerSecond * workload.Language!.Context!.Value;
        double? flops = workload.Models.First(model => model.Name == summary.Model).FlopsPerToken;
        return summary with
        {
            Perplexity = Math.Exp(summary.TestLoss),
            TokensPerSecond = tokensPerSecond,
            ModelFlopsUtilization = tokensPerSecond * flops / peak,
        };
    }
}

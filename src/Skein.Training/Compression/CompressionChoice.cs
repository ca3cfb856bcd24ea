using System.Diagnostics;
using Skein.Collectives;
using Skein.Training.Data;
using static TorchSharp.torch;

namespace Skein.Training.Compression;

/// <summary>Replaces <c>auto</c> by what is quickest between these ranks.</summary>
internal static class CompressionChoice
{
    // From the most faithful on; benchmarks/RESULTS.md has the accuracy of each but powersgd:4.
    private static readonly CompressionSpec[] Candidates = [.. new[] { "none", "fp16", "int8", "qsgd:4", "powersgd:4", "topk:0.01" }.Select(CompressionSpec.Parse)];

    private const int Repetitions = 3;
    private const int MostValues = 1 << 20;

    // A less faithful method has to be worth it.
    private const double WorthwhileGain = 1.2;

    /// <summary>The options with the method chosen. All ranks call it, and choose the same.</summary>
    public static CompressionOptions Resolve(ProcessGroup group, CompressionOptions options, nn.Module model)
    {
        if (options.Rules.Common.Method != CompressionMethod.Auto) return options;
        var places = new List<ParameterPlace>();
        int length = 0;
        foreach ((string name, var parameter) in model.named_parameters())
        {
            if (!parameter.requires_grad || options.Rules.Of(name).Method != CompressionMethod.Auto || length + parameter.numel() > MostValues) continue;
            places.Add(ParameterPlace.Of(length, parameter.shape));
            length += (int)parameter.numel();
        }

        return options with { Rules = options.Rules.With(Choose(group, options, places, length)) };
    }

    private static CompressionSpec Choose(ProcessGroup group, CompressionOptions options, List<ParameterPlace> places, int length)
    {
        double[] seconds = [.. Candidates.Select(candidate => Measure(group, candidate, options, places, length))];
        // The slowest rank's count.
        group.AllReduce(seconds.AsSpan(), ReduceOperation.Max);
        int chosen = 0;
        for (int i = 1; i < seconds.Length; i++)
        {
            if (seconds[i] * WorthwhileGain < seconds[chosen]) chosen = i;
        }

        return Candidates[chosen];
    }

    /// <summary>What one average of a made-up gradient takes, the waiting for the network and the computing together.</summary>
    private static double Measure(ProcessGroup group, CompressionSpec spec, CompressionOptions options, List<ParameterPlace> places, int length)
    {
        var average = new CompressedAverage(group, spec, options, places, length, index: 0);
        var random = new SplitMix64(options.Seed, group.Rank);
        var values = new float[length];
        double best = double.PositiveInfinity;
        for (int i = 0; i < Repetitions; i++)
        {
            // The cube of a uniform number is about as heavy-tailed as gradients are.
            foreach (ref float value in values.AsSpan()) value = (float)Math.Pow((2 * random.NextDouble()) - 1, 3);
            group.Barrier();
            long start = Stopwatch.GetTimestamp();
            average.Average(values);
            average.Settle(true);
            // The first one compiles code and fills an emulated network's bucket.
            if (i > 0) best = Math.Min(best, Stopwatch.GetElapsedTime(start).TotalSeconds);
        }

        return best;
    }
}

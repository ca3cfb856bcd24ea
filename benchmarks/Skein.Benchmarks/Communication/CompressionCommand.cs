using System.CommandLine;

namespace Skein.Benchmarks.Communication;

/// <summary>The benchmarks of training with fewer bytes.</summary>
internal static class CompressionCommand
{
    public static Command Create() => new("compression", "Benchmarks of compression and local SGD")
    {
        CodecThroughput.Command(),
        AccuracyBenchmark.Command(),
        SlowLinkBenchmark.Command(),
    };
}

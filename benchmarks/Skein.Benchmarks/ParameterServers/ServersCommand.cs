using System.CommandLine;

namespace Skein.Benchmarks.ParameterServers;

/// <summary>The benchmarks of parameter servers, and what they have in common.</summary>
internal static class ServersCommand
{
    public static readonly Option<string> Skein = new("--skein") { DefaultValueFactory = static _ => "./skein", Description = "The command to measure" };

    public static Command Create() => new("parameter-server", "Benchmarks of parameter servers")
    {
        ThroughputBenchmark.Command(),
        StragglerBenchmark.Command(),
        StalenessBenchmark.Command(),
        SparseBenchmark.Command(),
    };
}

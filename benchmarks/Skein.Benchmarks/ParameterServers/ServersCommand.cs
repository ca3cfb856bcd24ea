using System.CommandLine;

namespace Skein.Benchmarks.ParameterServers;

/// <summary>The benchmarks of parameter servers.</summary>
internal static class ServersCommand
{
    public static Command Create() => new("parameter-server", "Benchmarks of parameter servers")
    {
        ThroughputBenchmark.Command(),
        StragglerBenchmark.Command(),
        StalenessBenchmark.Command(),
        SparseBenchmark.Command(),
    };
}

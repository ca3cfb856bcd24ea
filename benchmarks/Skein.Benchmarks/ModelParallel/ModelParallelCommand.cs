using System.CommandLine;

namespace Skein.Benchmarks.ModelParallel;

/// <summary>The benchmarks of divided models.</summary>
internal static class ModelParallelCommand
{
    public static Command Create() => new("model-parallel", "Benchmarks of models that ranks divide")
    {
        AgreementBenchmark.Command(),
        ZeroBenchmark.Command(),
        BubbleBenchmark.Command(),
        PlanBenchmark.Command(),
    };
}

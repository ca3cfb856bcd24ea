using Skein.Training;
using Skein.Training.Meshes;

namespace Skein.Cli.Train;

/// <summary>What a summary says of workers that divide the model.</summary>
internal static class ModelParallelUsage
{
    public static TrainSummary Add(TrainSummary summary, TrainPlan plan, Strategy strategy)
    {
        ModelParallelPlan divided = plan.ModelParallel!;
        var pipeline = strategy as PipelineParallel;
        return summary with
        {
            Mesh = divided.Shape.ToString(),
            Zero = (int?)divided.Zero,
            Schedule = divided.Schedule?.ToString(),
            MicroBatches = divided.Schedule is null ? null : plan.GradientAccumulation,
            BubbleFraction = Measured(pipeline?.BubbleFraction),
            SimulatedBubbleFraction = Measured(pipeline?.SimulatedBubbleFraction),
            TheoreticalBubbleFraction = divided.Schedule?.BubbleFraction(divided.Shape[MeshShape.Pipeline], plan.GradientAccumulation),
        };
    }

    // The first steps are not measured, and there may be no others.
    private static double? Measured(double? fraction) => fraction is double.NaN ? null : fraction;
}

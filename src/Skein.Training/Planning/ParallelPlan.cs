using Skein.Training.Meshes;
using Skein.Training.Pipeline;

namespace Skein.Training.Planning;

/// <summary>A way for ranks to share the training of one model.</summary>
/// <param name="Mesh">Ranks by dimension.</param>
/// <param name="Zero">What data-parallel ranks divide; null: nothing.</param>
/// <param name="Schedule">A pipeline's schedule; null without one.</param>
/// <param name="MicroBatches">Of a step.</param>
public sealed record ParallelPlan(MeshShape Mesh, ZeroStage? Zero = null, PipelineSchedule? Schedule = null, int MicroBatches = 1)
{
    /// <summary>Ranks, or groups of ranks that divide a model, that share each batch.</summary>
    public int Data => Mesh[MeshShape.Data];

    /// <summary>A pipeline's stages.</summary>
    public int Stages => Mesh[MeshShape.Pipeline];

    /// <summary>Ranks that divide each layer.</summary>
    public int Tensor => Mesh[MeshShape.Tensor];

    /// <summary>For people.</summary>
    public override string ToString() =>
        $"{Mesh}{(Zero is { } stage ? $" zero {(int)stage}" : "")}{(Schedule is null ? "" : $" {Schedule}, {MicroBatches} micro-batches")}";
}

/// <summary>What a plan is expected to cost.</summary>
/// <param name="Plan">The plan.</param>
/// <param name="MemoryBytes">The largest resident size of the rank that needs most.</param>
/// <param name="BubbleFraction">The part of a pipeline's step in which a stage waits, on average; 0 without one.</param>
/// <param name="BytesPerStep">What the rank that sends most sends in a step.</param>
/// <param name="StepSeconds">Of one optimizer step.</param>
/// <param name="SamplesPerSecond">Over all ranks.</param>
public sealed record PlanPrediction(ParallelPlan Plan, double MemoryBytes, double BubbleFraction, double BytesPerStep, double StepSeconds, double SamplesPerSecond);

/// <summary>A way that is none.</summary>
/// <param name="Plan">What would have been tried.</param>
/// <param name="Reason">Why it cannot be.</param>
public sealed record ImpossiblePlan(ParallelPlan Plan, string Reason);

using Skein.Training.Pipeline;

namespace Skein.Training.Planning;

/// <summary>The time of a step and the bytes that a rank sends in it.</summary>
/// <param name="Seconds">Of the step.</param>
/// <param name="BubbleFraction">The part in which a pipeline's stage waits; 0 without one.</param>
/// <param name="BytesSent">By the rank that sends most.</param>
internal readonly record struct StepEstimate(double Seconds, double BubbleFraction, double BytesSent)
{
    private const double Element = 4;

    // A pipeline's loss, wish to stop and measured times; elsewhere two numbers.
    private const double ScalarBytes = 16;

    /// <summary>Adds up what each part of a step takes; a pipeline's by <see cref="PipelineSimulation"/>.</summary>
    /// <param name="profile">The model.</param>
    /// <param name="collectives">The ranks' communication.</param>
    /// <param name="plan">How they share the model.</param>
    /// <param name="chunks">The chunks of layers in their order, the loss behind the last.</param>
    /// <param name="overlaps">Whether communication runs beside the computation.</param>
    public static StepEstimate Of(ModelProfile profile, CollectiveCosts collectives, ParallelPlan plan, IReadOnlyList<LayerShare[]> chunks, bool overlaps)
    {
        PipelineCosts[] costs = [.. chunks.Select((chunk, index) => Costs(chunk, collectives, plan, isLast: index == chunks.Count - 1))];
        PipelineSimulation? simulation = plan.Schedule is { } schedule ? PipelineSimulation.Run(schedule, plan.Stages, plan.MicroBatches, costs) : null;
        double passes = simulation?.Duration ?? costs[0].Forward + costs[0].BackwardInput;
        double work = simulation?.Busy.Sum() ?? passes;
        // Ranks that share cores: all the work has to get done, however well the stages fit into each other.
        double sharing = (double)plan.Mesh.WorldSize * profile.Threads / profile.Cores;
        double computation = Math.Max(passes, work / plan.Stages * sharing);

        (double synchronization, double bytes) = Enumerable.Range(0, plan.Stages)
            .Select(stage => Synchronization(profile, collectives, plan, Stage(chunks, plan, stage), Math.Max(1, sharing)))
            .Aggregate(static (left, right) => (Math.Max(left.Seconds, right.Seconds), Math.Max(left.Bytes, right.Bytes)));
        if (overlaps && plan.Schedule is null) synchronization = Math.Max(0, synchronization - costs[0].BackwardInput);
        double update = Enumerable.Range(0, plan.Stages).Max(stage => Elements(plan, Stage(chunks, plan, stage))) / (plan.Zero is null ? 1 : plan.Data) * profile.OptimizerSeconds * Math.Max(1, sharing);
        bytes += Enumerable.Range(0, plan.Stages).Max(stage => PassBytes(collectives, plan, chunks, stage));
        return new StepEstimate(computation + synchronization + update, simulation?.BubbleFraction ?? 0, bytes);
    }

    private static LayerShare[] Stage(IReadOnlyList<LayerShare[]> chunks, ParallelPlan plan, int stage) =>
        [.. chunks.Where((_, chunk) => chunk % plan.Stages == stage).SelectMany(static chunk => chunk)];

    private static double Elements(ParallelPlan plan, LayerShare[] layers) => ModelProfile.Elements(layers.Select(static share => share.Layer), plan.Tensor);

    private static PipelineCosts Costs(LayerShare[] chunk, CollectiveCosts collectives, ParallelPlan plan, bool isLast)
    {
        double forward = chunk.Sum(static layer => layer.Forward) + Exchanged(false);
        double backward = chunk.Sum(static layer => layer.Backward) + Exchanged(true);
        double gathered = GathersInPasses(plan) ? collectives.Seconds(CollectiveKind.AllGather, plan.Data, Element * Elements(plan, chunk)) : 0;
        double message = isLast ? 0 : collectives.Seconds(CollectiveKind.SendReceive, plan.Stages, Output(chunk));
        // The two parts of a backward pass take about equally long (Qi et al. 2023, section 2).
        bool splits = plan.Schedule is { SplitsBackward: true };
        return new PipelineCosts(forward + gathered, (splits ? backward / 2 : backward) + gathered, splits ? backward / 2 : 0, message);

        double Exchanged(bool inBackward) => chunk.SelectMany(static layer => layer.Collectives).Where(collective => collective.InBackward == inBackward)
            .Sum(collective => collectives.Seconds(collective.Kind, plan.Tensor, collective.Bytes));
    }

    // A stage's passes are of different micro-batches, so that each needs its parameters anew.
    private static bool GathersInPasses(ParallelPlan plan) => plan.Zero == ZeroStage.Parameters && plan.Schedule is not null;

    private static double Output(LayerShare[] chunk) => chunk[^1].Layer.OutputBytes * chunk[^1].Samples;

    /// <summary>What follows the passes: gradients that become the same, and parameters that the ranks have divided.</summary>
    private static (double Seconds, double Bytes) Synchronization(ModelProfile profile, CollectiveCosts collectives, ParallelPlan plan, LayerShare[] layers, double sharing)
    {
        double bytes = Element * Elements(plan, layers), seconds = 0, sent = 0;
        if (plan.Data > 1 && plan.Zero is null)
        {
            Add(CollectiveKind.AllReduce, plan.Data, bytes);
            seconds += sharing * bytes * profile.CopySeconds;
        }
        else if (plan.Zero is { } zero)
        {
            Add(CollectiveKind.ReduceScatter, plan.Data, bytes);
            // Parameters that are divided are gathered for the forward pass and, but for the last layer's, again for the backward pass.
            if (!GathersInPasses(plan)) Add(CollectiveKind.AllGather, plan.Data, bytes);
            if (zero == ZeroStage.Parameters && plan.Schedule is null) Add(CollectiveKind.AllGather, plan.Data, bytes - layers.LastOrDefault(static layer => layer.Layer.Parameters.Count > 0).GradientBytes);
            seconds += sharing * 2 * bytes * profile.CopySeconds;
            Add(CollectiveKind.AllReduce, plan.Data, ScalarBytes);
        }

        if (plan.Tensor > 1)
        {
            Add(CollectiveKind.AllReduce, plan.Tensor, Element * layers.SelectMany(static layer => layer.Layer.Parameters).Where(static parameter => !parameter.IsDivided).Sum(static parameter => parameter.Elements));
            Add(CollectiveKind.AllReduce, plan.Tensor, ScalarBytes);
        }

        if (plan.Stages > 1) Add(CollectiveKind.AllReduce, plan.Stages, ScalarBytes);
        return (seconds, sent);

        void Add(CollectiveKind kind, int ranks, double size)
        {
            seconds += collectives.Seconds(kind, ranks, size);
            sent += CollectiveVolume.BytesSent(kind, ranks, size, collectives.SharedMemory);
        }
    }

    /// <summary>Messages between a stage's chunks and their neighbours, what tensor-parallel ranks exchange and what passes gather, over all micro-batches.</summary>
    private static double PassBytes(CollectiveCosts collectives, ParallelPlan plan, IReadOnlyList<LayerShare[]> chunks, int stage)
    {
        double sent = 0;
        for (int chunk = stage; chunk < chunks.Count; chunk += plan.Stages)
        {
            sent += chunks[chunk].SelectMany(static layer => layer.Collectives).Sum(collective => CollectiveVolume.BytesSent(collective.Kind, plan.Tensor, collective.Bytes, collectives.SharedMemory));
            if (chunk < chunks.Count - 1) sent += Output(chunks[chunk]);
            if (chunk > 0) sent += Output(chunks[chunk - 1]);
            if (GathersInPasses(plan)) sent += 2 * CollectiveVolume.BytesSent(CollectiveKind.AllGather, plan.Data, Element * Elements(plan, chunks[chunk]), collectives.SharedMemory);
        }

        return sent * plan.MicroBatches;
    }
}

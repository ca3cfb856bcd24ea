using Skein.Training.Meshes;
using Skein.Training.Pipeline;

namespace Skein.Training.Planning;

/// <summary>Lists the ways in which a number of ranks can share a model.</summary>
public static class PlanCandidates
{
    // Fewer than stages leave some without work for most of the time, more than four for each stage gain little: with four,
    // 1f1b waits for less than a fifth of a step.
    private static readonly int[] MicroBatchesPerStage = [1, 2, 4];

    /// <summary>Every mesh of so many ranks with every ZeRO stage and schedule that the strategies accept.</summary>
    /// <param name="profile">The model.</param>
    /// <param name="workers">Ranks, 1 or more.</param>
    /// <param name="batchSize">Samples in each step over all ranks, 1 or more.</param>
    /// <remarks>
    /// GPipe is left out: it takes as long as 1F1B, and never less memory. So is the zero-bubble schedule with tensor-parallel
    /// ranks, whose layers compute both parts of a backward pass at once.
    /// </remarks>
    public static (IReadOnlyList<ParallelPlan> Possible, IReadOnlyList<ImpossiblePlan> Impossible) Of(ModelProfile profile, int workers, int batchSize)
    {
        ArgumentNullException.ThrowIfNull(profile);
        ArgumentOutOfRangeException.ThrowIfLessThan(workers, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(batchSize, 1);
        var possible = new List<ParallelPlan>();
        var impossible = new List<ImpossiblePlan>();
        foreach (MeshShape mesh in Meshes(workers))
        {
            if (Refuse(profile, mesh, batchSize) is { } reason)
            {
                impossible.Add(new ImpossiblePlan(new ParallelPlan(mesh), reason));
                continue;
            }

            foreach (ZeroStage? zero in Stages(mesh))
            {
                if (!profile.MayBeDivided && zero == ZeroStage.Parameters)
                {
                    impossible.Add(new ImpossiblePlan(new ParallelPlan(mesh, zero), "it is measured on the whole model, which no worker would have"));
                    continue;
                }

                if (mesh[MeshShape.Pipeline] == 1)
                {
                    possible.Add(new ParallelPlan(mesh, zero));
                    continue;
                }

                int stages = mesh[MeshShape.Pipeline], share = batchSize / mesh[MeshShape.Data];
                foreach (PipelineSchedule schedule in Schedules(profile, mesh))
                {
                    foreach (int microBatches in MicroBatchesPerStage.Select(factor => Math.Min(share, factor * stages)).Distinct())
                    {
                        possible.Add(new ParallelPlan(mesh, zero, schedule, microBatches));
                    }
                }
            }
        }

        return (possible, impossible);
    }

    private static IEnumerable<MeshShape> Meshes(int workers) =>
        from data in Divisors(workers)
        from pipeline in Divisors(workers / data)
        select new MeshShape(data, pipeline, workers / data / pipeline);

    private static IEnumerable<int> Divisors(int number) => Enumerable.Range(1, number).Where(divisor => number % divisor == 0).Reverse();

    private static string? Refuse(ModelProfile profile, MeshShape mesh, int batchSize)
    {
        (int data, int stages, int tensor) = (mesh[MeshShape.Data], mesh[MeshShape.Pipeline], mesh[MeshShape.Tensor]);
        if (batchSize % data != 0) return $"a batch of {batchSize} does not divide by {data} data-parallel ranks";
        if (stages * tensor > 1 && !profile.MayBeDivided) return "it is measured on the whole model, which no worker would have";
        if (stages > 1 && !profile.IsLayered) return "the model cannot be taken apart into layers";
        if (stages > 1 && Chunks(profile, stages) is null) return $"the model's {profile.Layers.Count} layers cannot be cut into {stages} stages with parameters in each";
        if (tensor == 1) return null;
        if (profile.TensorLimits is null) return "the model has no plan for tensor parallelism";
        foreach (TensorLimit limit in profile.TensorLimits)
        {
            if (limit.Equally ? limit.Length % tensor != 0 : limit.Length < tensor) return $"module '{limit.Module}' has {limit.Length} {limit.What}, which {tensor} ranks cannot share";
        }

        return null;
    }

    /// <summary>The layers of each chunk, as <see cref="PipelineParallel"/> cuts the model; null where it cannot.</summary>
    internal static IReadOnlyList<LayerProfile[]>? Chunks(ModelProfile profile, int stages, int chunksPerStage = 1)
    {
        int chunks = stages * chunksPerStage;
        if (chunks > profile.Layers.Count) return null;
        int[] counts = LayerPartition.Balance([.. profile.Layers.Select(static layer => layer.BalanceCost)], chunks, new long[profile.Layers.Count]);
        LayerProfile[][] cut = [.. counts.Select((count, chunk) => profile.Layers.Skip(counts.Take(chunk).Sum()).Take(count).ToArray())];
        bool allTrain = Enumerable.Range(0, stages).All(stage => cut.Where((_, chunk) => chunk % stages == stage).Any(static layers => layers.Any(static layer => layer.Parameters.Count > 0)));
        return allTrain ? cut : null;
    }

    private static IEnumerable<ZeroStage?> Stages(MeshShape mesh)
    {
        yield return null;
        if (mesh[MeshShape.Data] == 1) yield break;
        yield return ZeroStage.OptimizerState;
        yield return ZeroStage.Gradients;
        yield return ZeroStage.Parameters;
    }

    private static IEnumerable<PipelineSchedule> Schedules(ModelProfile profile, MeshShape mesh)
    {
        yield return PipelineSchedule.OneForwardOneBackward;
        if (Chunks(profile, mesh[MeshShape.Pipeline], 2) is not null) yield return PipelineSchedule.Interleaved(2);
        if (mesh[MeshShape.Tensor] == 1) yield return PipelineSchedule.ZeroBubble;
    }
}

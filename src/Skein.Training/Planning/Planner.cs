namespace Skein.Training.Planning;

/// <summary>
/// Predicts from a <see cref="ModelProfile"/> what ways of sharing a model among ranks cost, without running them. In the manner of
/// Narayanan et al. 2021 ("Efficient large-scale language model training on GPU clusters using Megatron-LM", section 3) and Zheng et al. 2022
/// ("Alpa"): closed forms over measured layers.
/// </summary>
public static class Planner
{
    /// <summary>Predicts all of them, the fastest of those that fit into the memory first, and then those that do not, the smallest first.</summary>
    /// <param name="profile">The model, measured with the threads that a worker has.</param>
    /// <param name="collectives">Between the ranks.</param>
    /// <param name="plans">Of <see cref="PlanCandidates"/>.</param>
    /// <param name="batchSize">Samples in each step over all ranks.</param>
    /// <param name="memoryBytes">What each rank may have.</param>
    public static IReadOnlyList<PlanPrediction> Rank(
        ModelProfile profile, CollectiveCosts collectives, IEnumerable<ParallelPlan> plans, int batchSize, double memoryBytes)
    {
        ArgumentNullException.ThrowIfNull(plans);
        return [.. plans.Select(plan => Predict(profile, collectives, plan, batchSize))
            .OrderBy(prediction => prediction.MemoryBytes <= memoryBytes ? 0 : 1)
            .ThenBy(prediction => prediction.MemoryBytes <= memoryBytes ? prediction.StepSeconds : prediction.MemoryBytes)
            // Of equally fast ones the smaller.
            .ThenBy(static prediction => prediction.MemoryBytes)];
    }

    /// <summary>Predicts one.</summary>
    /// <exception cref="ArgumentException">The model cannot be cut into as many chunks as the plan has.</exception>
    public static PlanPrediction Predict(ModelProfile profile, CollectiveCosts collectives, ParallelPlan plan, int batchSize)
    {
        ArgumentNullException.ThrowIfNull(profile);
        ArgumentNullException.ThrowIfNull(collectives);
        ArgumentNullException.ThrowIfNull(plan);
        IReadOnlyList<LayerProfile[]> cut = PlanCandidates.Chunks(profile, plan.Stages, plan.Schedule?.Chunks ?? 1)
            ?? throw new ArgumentException($"the model's {profile.Layers.Count} layers cannot be cut as {plan} needs", nameof(plan));
        double samples = (double)batchSize / plan.Data / plan.MicroBatches;
        LayerShare[][] chunks = [.. cut.Select((layers, index) => (index == cut.Count - 1 ? layers.Append(profile.Loss) : layers).Select(layer => new LayerShare(layer, samples, plan.Tensor)).ToArray())];
        // As the strategies decide: there is nothing to gain where ranks keep all cores of one host busy.
        bool overlaps = profile.Cores > plan.Mesh.WorldSize;
        StepEstimate step = StepEstimate.Of(profile, collectives, plan, chunks, overlaps);
        double memory = Enumerable.Range(0, plan.Stages).Max(stage => MemoryEstimate.Of(profile, plan, stage, [.. chunks.Where((_, chunk) => chunk % plan.Stages == stage)], batchSize, overlaps));
        return new PlanPrediction(plan, memory, step.BubbleFraction, step.BytesSent, step.Seconds, batchSize / step.Seconds);
    }
}

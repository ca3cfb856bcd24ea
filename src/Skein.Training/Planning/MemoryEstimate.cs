namespace Skein.Training.Planning;

/// <summary>
/// The largest resident size of a worker: the state of ZeRO (<see cref="ZeroMemory"/>), activations (<see cref="ActivationMemory"/>), and the
/// buffers that this implementation adds. The allocator keeps what was freed for later, so that the largest of the phases counts.
/// </summary>
internal static class MemoryEstimate
{
    private const double Element = 4;

    /// <summary>Of the rank of a stage.</summary>
    /// <param name="profile">The model.</param>
    /// <param name="plan">How ranks share it.</param>
    /// <param name="stage">The stage.</param>
    /// <param name="chunks">The stage's chunks of layers, the loss behind those of the last one.</param>
    /// <param name="batchSize">Over all ranks.</param>
    /// <param name="overlaps">Whether communication runs beside the computation.</param>
    public static double Of(ModelProfile profile, ParallelPlan plan, int stage, IReadOnlyList<LayerShare[]> chunks, int batchSize, bool overlaps)
    {
        LayerProfile[] layers = [.. chunks.SelectMany(static chunk => chunk).Select(static share => share.Layer)];
        double elements = ModelProfile.Elements(layers, plan.Tensor);
        double state = State(profile, plan, elements) + Buffers(profile, plan, elements, layers, chunks, overlaps);
        double training = profile.BaseBytes + state + (Activations(plan, stage, chunks) * HeapOverhead(profile, (double)batchSize / plan.Data / plan.MicroBatches));
        double evaluation = profile.BaseBytes + state + KeptGradients(plan, elements) + (profile.EvaluationPeak.At(batchSize / plan.Data) / plan.Tensor);
        // Before it is divided every rank has the whole model, and one unit twice.
        double whole = profile.BaseBytes + (Element * (profile.ParameterCount + (plan.Zero is null ? 0 : LargestUnit(layers, 1))));
        return new[] { training, evaluation, whole, profile.LoadPeakBytes }.Max();
    }

    // The gradients count with the activations, since they are fresh in every step.
    private static double State(ModelProfile profile, ParallelPlan plan, double elements) =>
        new ZeroMemory(Element, 0, profile.OptimizerBytes).PerRank(elements, plan.Data, plan.Zero);

    private static double Buffers(ModelProfile profile, ParallelPlan plan, double elements, LayerProfile[] layers, IReadOnlyList<LayerShare[]> chunks, bool overlaps)
    {
        double bytes = 0;
        if (plan.Tensor > 1)
        {
            // One piece of shared memory takes the largest collective; its own, and the peers' parts that this rank writes.
            double largest = chunks.SelectMany(static chunk => chunk).SelectMany(static share => share.Collectives).Select(static collective => collective.Bytes).DefaultIfEmpty().Max();
            bytes += InShared(largest, plan.Tensor);
        }

        if (plan.Data == 1) return bytes;
        // Buckets are in memory that the ranks share, and the sum is written into the peers'.
        if (plan.Zero is not { } zero) return bytes + InShared(Element * elements, plan.Data);
        double unit = Element * LargestUnit(layers, plan.Tensor), slots = overlaps ? 2 : 1;
        bytes += Element * elements / plan.Data;
        bytes += slots * unit * (1 + (1.0 / plan.Data));
        if (zero == ZeroStage.Parameters) bytes += slots * unit;
        return bytes;
    }

    // What lies between the allocator's blocks is not always of use. That depends on how large they are, so on the
    // samples; it is measured on the whole model.
    private static double HeapOverhead(ModelProfile profile, double samples)
    {
        LayerShare[] whole = [.. profile.Layers.Append(profile.Loss).Select(layer => new LayerShare(layer, samples, 1))];
        double inUse = ActivationMemory.Peak(whole, FreshGradients.Stay);
        return inUse > 0 ? Math.Max(1, profile.TrainingPeak.At(samples) / inUse) : 1;
    }

    private static double InShared(double bytes, int ranks) => bytes * (1 + ((ranks - 1.0) / ranks));

    private static double LargestUnit(LayerProfile[] layers, int tensor)
    {
        // What several layers share is a unit of its own, with whatever else they share.
        var owners = layers.SelectMany(static layer => layer.Parameters).CountBy(static parameter => parameter.Id).ToDictionary();
        double own = layers.Max(layer => layer.Parameters.Where(parameter => owners[parameter.Id] == 1).Sum(parameter => (double)ModelProfile.Part(parameter, tensor)));
        double common = layers.SelectMany(static layer => layer.Parameters).DistinctBy(static parameter => parameter.Id).Where(parameter => owners[parameter.Id] > 1).Sum(parameter => (double)ModelProfile.Part(parameter, tensor));
        return Math.Max(own, common);
    }

    // Those in buckets and of shards are buffers.
    private static double KeptGradients(ParallelPlan plan, double elements) => plan.Data > 1 ? 0 : Element * elements;

    private static double Activations(ParallelPlan plan, int stage, IReadOnlyList<LayerShare[]> chunks)
    {
        if (plan.Schedule is not { } schedule)
        {
            // Those of tensor-parallel ranks wait until they are the same on all of them.
            return ActivationMemory.Peak(chunks[0], plan.Zero >= ZeroStage.Gradients && plan.Tensor == 1 ? FreshGradients.Leave : FreshGradients.Stay);
        }

        int[] inFlight = ActivationMemory.MostInFlight(schedule, plan.Stages, stage, plan.MicroBatches);
        FreshGradients gradients = plan.MicroBatches > 1 ? FreshGradients.Accumulate : FreshGradients.Stay;
        double all = chunks.SelectMany(static chunk => chunk).Sum(static share => share.GradientBytes);
        double held = 0, beyond = 0;
        foreach ((int chunk, LayerShare[] layers) in chunks.Index())
        {
            double saved = layers.Sum(static layer => layer.Saved), own = layers.Sum(static layer => layer.GradientBytes);
            held += inFlight[chunk] * saved;
            beyond = Math.Max(beyond, ActivationMemory.Peak(layers, gradients) - saved - (gradients == FreshGradients.Accumulate ? own : 0));
        }

        return held + beyond + (gradients == FreshGradients.Accumulate ? all : 0);
    }
}

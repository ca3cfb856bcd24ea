using Skein.Training.Pipeline;

namespace Skein.Training.Planning;

/// <summary>What becomes of fresh gradients during a backward pass.</summary>
internal enum FreshGradients
{
    /// <summary>They stay until it is over.</summary>
    Stay,

    /// <summary>They are reduced and freed layer by layer, as with the stages 2 and 3 of ZeRO.</summary>
    Leave,

    /// <summary>They are added to those of an earlier micro-batch.</summary>
    Accumulate,
}

/// <summary>The memory of activations and gradients over time, by going through the passes.</summary>
internal static class ActivationMemory
{
    /// <summary>The most bytes in use while one micro-batch goes forward and backward through all of <paramref name="layers"/>, above those before.</summary>
    public static double Peak(IReadOnlyList<LayerShare> layers, FreshGradients gradients)
    {
        double live = gradients == FreshGradients.Accumulate ? layers.Sum(static layer => layer.GradientBytes) : 0;
        double peak = live;
        foreach (LayerShare layer in layers)
        {
            peak = Math.Max(peak, live + layer.ForwardPeak);
            live += layer.Saved;
        }

        foreach (LayerShare layer in layers.Reverse())
        {
            peak = Math.Max(peak, live + layer.BackwardPeak);
            live += layer.BackwardChange - (gradients == FreshGradients.Stay ? 0 : layer.GradientBytes);
        }

        return peak;
    }

    /// <summary>The most micro-batches of each of a stage's chunks that wait for their backward pass at the same time, the one that comes last included (for 1F1B, as many as stages come from here on).</summary>
    public static int[] MostInFlight(PipelineSchedule schedule, int stages, int stage, int microBatches)
    {
        var inFlight = new int[schedule.Chunks];
        int[] most = new int[schedule.Chunks];
        foreach (PipelineOperation operation in schedule.Operations(stages, stage, microBatches))
        {
            if (operation.Kind == PipelineOperationKind.Forward) inFlight[operation.Chunk]++;
            if (inFlight.Sum() > most.Sum()) inFlight.CopyTo(most, 0);
            // A backward pass in two parts keeps what the second one needs.
            bool ends = schedule.SplitsBackward ? operation.Kind == PipelineOperationKind.BackwardWeight : operation.Kind == PipelineOperationKind.Backward;
            if (ends) inFlight[operation.Chunk]--;
        }

        return most;
    }
}

namespace Skein.Training.Pipeline;

/// <summary>How long one micro-batch takes in one chunk, in any one unit.</summary>
/// <param name="Forward">The forward pass.</param>
/// <param name="BackwardInput">The gradient of the input; all of the backward pass where it is not split.</param>
/// <param name="BackwardWeight">The gradients of the weights; 0 where the backward pass is not split.</param>
/// <param name="Communication">From the end of a pass here to where the next chunk has what it needs.</param>
public readonly record struct PipelineCosts(double Forward, double BackwardInput, double BackwardWeight = 0, double Communication = 0);

/// <summary>When the stages of a pipeline work in one step, from a schedule and given costs, without training anything.</summary>
/// <param name="Duration">From the step's begin until the last stage is done.</param>
/// <param name="Busy">How long each stage computes.</param>
public sealed record PipelineSimulation(double Duration, IReadOnlyList<double> Busy)
{
    /// <summary>The part of the step in which a stage waits, on average over the stages. NaN without work.</summary>
    public double BubbleFraction => 1 - (Busy.Average() / Duration);

    /// <summary>Works through the stages' lists, each operation as soon as what it needs is there.</summary>
    /// <param name="schedule">The order of operations.</param>
    /// <param name="stages">The number of stages.</param>
    /// <param name="microBatches">The number of micro-batches.</param>
    /// <param name="costs">One for each chunk of the model, stages · <see cref="PipelineSchedule.Chunks"/> of them.</param>
    /// <exception cref="ArgumentException">There are more or fewer costs.</exception>
    /// <exception cref="InvalidOperationException">The schedule does not execute: its stages wait for each other.</exception>
    public static PipelineSimulation Run(PipelineSchedule schedule, int stages, int microBatches, IReadOnlyList<PipelineCosts> costs)
    {
        ArgumentNullException.ThrowIfNull(schedule);
        ArgumentNullException.ThrowIfNull(costs);
        int chunks = stages * schedule.Chunks;
        if (costs.Count != chunks) throw new ArgumentException($"{stages} stages with {schedule.Chunks} chunks each have {chunks} chunks, but there are {costs.Count} costs", nameof(costs));
        IReadOnlyList<PipelineOperation>[] lists = [.. Enumerable.Range(0, stages).Select(stage => schedule.Operations(stages, stage, microBatches))];
        // [chunk, micro-batch]: when the result is there; infinite before.
        double[,] forward = Unfinished(), backward = Unfinished();
        int[] next = new int[stages];
        double[] time = new double[stages], busy = new double[stages];
        for (bool moved = true; moved;)
        {
            moved = false;
            for (int stage = 0; stage < stages; stage++)
            {
                while (next[stage] < lists[stage].Count && Start(stage, lists[stage][next[stage]]))
                {
                    next[stage]++;
                    moved = true;
                }
            }
        }

        for (int stage = 0; stage < stages; stage++)
        {
            if (next[stage] < lists[stage].Count) throw new InvalidOperationException($"{schedule} with {stages} stages and {microBatches} micro-batches stops: stage {stage} waits in {lists[stage][next[stage]]}");
        }

        return new PipelineSimulation(time.Max(), busy);

        bool Start(int stage, PipelineOperation operation)
        {
            int chunk = (operation.Chunk * stages) + stage, batch = operation.MicroBatch;
            PipelineCosts cost = costs[chunk];
            (double ready, double length) = operation.Kind switch
            {
                PipelineOperationKind.Forward => (chunk == 0 ? 0 : forward[chunk - 1, batch] + costs[chunk - 1].Communication, cost.Forward),
                PipelineOperationKind.BackwardWeight => (backward[chunk, batch], cost.BackwardWeight),
                _ => (
                    Math.Max(forward[chunk, batch], chunk == chunks - 1 ? 0 : backward[chunk + 1, batch] + costs[chunk + 1].Communication),
                    cost.BackwardInput + (operation.Kind == PipelineOperationKind.Backward ? cost.BackwardWeight : 0)),
            };
            if (double.IsPositiveInfinity(ready)) return false;
            time[stage] = Math.Max(time[stage], ready) + length;
            busy[stage] += length;
            if (operation.Kind == PipelineOperationKind.Forward) forward[chunk, batch] = time[stage];
            else if (operation.Kind != PipelineOperationKind.BackwardWeight) backward[chunk, batch] = time[stage];
            return true;
        }

        double[,] Unfinished()
        {
            var times = new double[chunks, microBatches];
            for (int chunk = 0; chunk < chunks; chunk++)
            {
                for (int batch = 0; batch < microBatches; batch++) times[chunk, batch] = double.PositiveInfinity;
            }

            return times;
        }
    }
}

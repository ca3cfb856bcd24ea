using System.Diagnostics;
using Skein.Training.Gradients;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.Pipeline;

/// <summary>Works through a schedule's list of one stage: forward and backward passes of micro-batches, and the messages between them. Not thread-safe.</summary>
internal sealed class StageRun(PipelineSchedule schedule, PipelineStage stage, BoundaryExchange exchange, StepTimes times, (int Stage, int Stages) place)
{
    private readonly Dictionary<(int Chunk, int MicroBatch), InFlight> inFlight = [];
    private readonly int lastChunk = (place.Stages * schedule.Chunks) - 1;
    private IReadOnlyList<PipelineOperation> operations = [];
    private int preparedFor = -1;

    /// <summary>Where weights' gradients wait; null where the schedule does not split backward passes.</summary>
    public DeferredGradients? Deferred { get; init; }

    /// <summary>Where micro-batches' gradients of these parameters add up.</summary>
    public required (GradientSums Sums, Func<IReadOnlyList<Parameter>> Parameters) Accumulation { get; init; }

    /// <summary>What keeps errors of modules inside backward passes.</summary>
    public required IReadOnlyList<BackwardFailure> Failures { get; init; }

    /// <summary>Runs one step. The gradients add up to those of <paramref name="scale"/> times this rank's part of the global mean loss.</summary>
    /// <param name="batch">The samples.</param>
    /// <param name="scale">Of the loss.</param>
    /// <param name="microBatches">So many, those beyond the batch's own counting nothing.</param>
    /// <returns>That loss on the last stage, 0 on the others.</returns>
    public double Run(StepBatch batch, double scale, int microBatches)
    {
        if (microBatches != preparedFor) operations = schedule.Operations(place.Stages, place.Stage, preparedFor = microBatches);
        IReadOnlyList<Parameter> trained = Accumulation.Parameters();
        Accumulation.Sums.Clear();
        double loss = 0;
        for (int i = 0; i < operations.Count; i++)
        {
            PipelineOperation operation = operations[i];
            int chunk = ChunkOf(operation);
            if (i + 1 < operations.Count) Announce(operations[i + 1], batch);
            TimeSpan waited = exchange.Waited;
            long start = Stopwatch.GetTimestamp();
            using (NewDisposeScope())
            {
                switch (operation.Kind)
                {
                    case PipelineOperationKind.Forward:
                        loss += Forward(chunk, operation.MicroBatch, batch, scale);
                        break;
                    case PipelineOperationKind.BackwardWeight:
                        Deferred!.Compute(chunk, operation.MicroBatch);
                        Release(inFlight, chunk, operation.MicroBatch);
                        break;
                    default:
                        Backward(chunk, operation.MicroBatch, batch);
                        break;
                }
            }

            if (operation.Kind != PipelineOperationKind.Forward && microBatches > 1) Accumulation.Sums.Take(trained);
            TimeSpan computed = Stopwatch.GetElapsedTime(start) - (exchange.Waited - waited);
            if (batch.Slowdown > 1)
            {
                Thread.Sleep(computed * (batch.Slowdown - 1));
                computed *= batch.Slowdown;
            }

            times.Add(operation.Kind, chunk, computed);
        }

        Accumulation.Sums.Give();
        exchange.Flush();
        return loss;
    }

    private int ChunkOf(PipelineOperation operation) => (operation.Chunk * place.Stages) + place.Stage;

    // What the next operation needs may arrive while this one computes.
    private void Announce(PipelineOperation next, StepBatch batch)
    {
        int chunk = ChunkOf(next);
        if (next.Kind == PipelineOperationKind.Forward && chunk > 0) exchange.Expect(Crossing.Activation, chunk - 1, next.MicroBatch, batch.SizeOf(next.MicroBatch));
        if (next.Kind is PipelineOperationKind.Backward or PipelineOperationKind.BackwardInput && chunk < lastChunk && inFlight.TryGetValue((chunk, next.MicroBatch), out InFlight? run) && run.GivesGradient)
        {
            exchange.Expect(Crossing.Gradient, chunk, next.MicroBatch, batch.SizeOf(next.MicroBatch));
        }
    }

    private double Forward(int chunk, int microBatch, StepBatch batch, double scale)
    {
        int samples = batch.SizeOf(microBatch);
        Tensor? received = null, labels = null;
        Tensor input;
        if (chunk == 0)
        {
            (input, labels) = batch.MicroBatch(microBatch);
        }
        else
        {
            received = exchange.Receive(Crossing.Activation, chunk - 1, microBatch, samples);
            input = exchange.OnDevice(received).detach();
            if (input.is_floating_point()) input.requires_grad_(true);
        }

        Tensor output = stage.Forward(chunk, input);
        double loss = 0;
        if (chunk == lastChunk)
        {
            labels ??= batch.MicroBatch(microBatch).Labels;
            (output, loss) = batch.Part(output, labels, microBatch, scale);
        }
        else
        {
            exchange.Send(Crossing.Activation, chunk, microBatch, samples, output);
        }

        inFlight.Add((chunk, microBatch), new InFlight(input.DetachFromDisposeScope(), output.DetachFromDisposeScope(), received));
        return loss;
    }

    private void Backward(int chunk, int microBatch, StepBatch batch)
    {
        InFlight run = inFlight[(chunk, microBatch)];
        int samples = batch.SizeOf(microBatch);
        Deferred?.Collect(chunk, microBatch);
        if (chunk == lastChunk)
        {
            if (run.Output.requires_grad) run.Output.backward();
        }
        else if (run.GivesGradient)
        {
            using Tensor received = exchange.Receive(Crossing.Gradient, chunk, microBatch, samples);
            if (run.Output.requires_grad) run.Output.backward([exchange.OnDevice(received)]);
        }

        Deferred?.Stop();
        foreach (BackwardFailure failure in Failures) failure.ThrowIfAny();
        if (chunk > 0 && run.Input.requires_grad) exchange.Send(Crossing.Gradient, chunk - 1, microBatch, samples, run.Input.grad ?? zeros_like(run.Input));
        if (Deferred is null) Release(inFlight, chunk, microBatch);
        else run.FreeGraph();
    }

    private void Release(Dictionary<(int, int), InFlight> from, int chunk, int microBatch)
    {
        from.Remove((chunk, microBatch), out InFlight? run);
        run!.FreeGraph();
        if (run.Received is not null) exchange.Recycle(run.Received);
    }

    /// <summary>What a forward pass leaves for its backward pass; <paramref name="Received"/> has the memory of the input.</summary>
    private sealed record InFlight(Tensor Input, Tensor Output, Tensor? Received)
    {
        public bool GivesGradient { get; } = Output.is_floating_point();

        public void FreeGraph()
        {
            Output.Dispose();
            Input.Dispose();
        }
    }
}

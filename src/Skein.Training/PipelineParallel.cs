using System.Diagnostics;
using Skein.Collectives;
using Skein.Training.Data;
using Skein.Training.Gradients;
using Skein.Training.Pipeline;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training;

/// <summary>
/// Cuts a model into consecutive layers, one part (stage) on each rank. A step's micro-batches go from stage to stage, so that all
/// work at once (Huang et al. 2019, "GPipe"; Narayanan et al. 2021). The result is that of one process, whatever the cut.
/// </summary>
/// <remarks>
/// The number of micro-batches is <see cref="Trainer.GradientAccumulation"/>: at least as many as stages keeps all busy. The
/// model is a <see cref="Sequential"/> or an <see cref="ILayeredModel"/>, built whole on every rank; <see cref="Attach"/> frees the
/// parameters of other stages, and <see cref="FullParameters"/> has all of them afterwards. The other strategy says what happens
/// to a stage: <see cref="DataParallel"/> over the ranks that have the same stage of other pipelines, for example. The group must
/// not be used for anything else meanwhile. Not thread-safe.
/// </remarks>
public sealed class PipelineParallel : Strategy
{
    private readonly ProcessGroup group;
    private readonly PipelineOptions options;
    private readonly ReplicaStrategy inner;
    private readonly int chunks;
    private readonly TiedParameters tied;
    private readonly StepTimes times;
    private readonly GradientSums sums = new();
    private nn.Module? model;
    private PipelineStage? stage;
    private BoundaryExchange? exchange;
    private StageRun? run;
    private int microBatches;

    /// <summary>A pipeline over the ranks of <paramref name="group"/>, which stays the caller's to dispose, after this.</summary>
    /// <param name="group">The ranks that divide the model, in the order of the stages.</param>
    /// <param name="options">Null: the defaults.</param>
    /// <param name="inner">What the ranks that have the same stage do with it; this strategy disposes it. Null: there is one pipeline only.</param>
    public PipelineParallel(ProcessGroup group, PipelineOptions? options = null, ReplicaStrategy? inner = null)
    {
        ArgumentNullException.ThrowIfNull(group);
        this.group = group;
        this.options = options ?? new PipelineOptions();
        this.inner = inner ?? new SingleProcess();
        this.inner.CanAllStep = own => Agreement.All(group, own);
        chunks = group.WorldSize * this.options.Schedule.Chunks;
        tied = new TiedParameters(group);
        times = new StepTimes(chunks);
        if (this.options.Balance == PipelineBalance.Profiled && this.options.Sample is null)
        {
            throw new ArgumentException($"{nameof(PipelineOptions.Balance)} is {PipelineBalance.Profiled}, which needs {nameof(PipelineOptions.Sample)}: the features of a micro-batch to measure the layers with", nameof(options));
        }
    }

    /// <summary>What the ranks that hold the same part of other copies of the model do.</summary>
    public ReplicaStrategy Inner => inner;

    internal override IEnumerable<ProcessGroup> Peers => [group, .. inner.Peers];

    /// <inheritdoc/>
    public override int Rank => inner.Rank;

    /// <inheritdoc/>
    public override int WorldSize => inner.WorldSize;

    /// <inheritdoc/>
    public override bool IsFirst => group.Rank == 0 && inner.IsFirst;

    /// <summary>The number of consecutive layers of each chunk, once a model is attached; chunk c is on stage c modulo the number of stages.</summary>
    public IReadOnlyList<int> LayersPerChunk { get; private set; } = [];

    /// <summary>
    /// The measured part of a step in which a stage waits for others, on average over the stages and all steps but the first; NaN before
    /// there are any. The same on all stages.
    /// </summary>
    public double BubbleFraction => times.BubbleFraction;

    /// <summary>
    /// What <see cref="BubbleFraction"/> would be if messages took no time and every pass took exactly its measured mean, by
    /// <see cref="PipelineSimulation"/>; for equally expensive chunks, <see cref="PipelineSchedule.BubbleFraction"/>. NaN before steps were measured.
    /// </summary>
    public double SimulatedBubbleFraction => PipelineSimulation.Run(options.Schedule, group.WorldSize, microBatches, times.Costs).BubbleFraction;

    /// <summary>
    /// Checks that all ranks have the same model, overwrites it by that of rank 0, cuts it, and frees the layers that are on other
    /// stages. Every rank calls it, once.
    /// </summary>
    /// <exception cref="ArgumentException">The model cannot be cut into as many chunks as there are.</exception>
    /// <exception cref="InvalidOperationException">The ranks' models differ, or another model is attached already.</exception>
    public override void Attach(nn.Module model)
    {
        ArgumentNullException.ThrowIfNull(model);
        if (ReferenceEquals(this.model, model))
        {
            TakeChanges();
            return;
        }

        if (this.model is not null) throw new InvalidOperationException("another model is attached already; use one PipelineParallel for each model");
        nn.Module<Tensor, Tensor>[] layers = [.. ModuleTree.LayersOf(model).Select(static entry => entry.Layer)];
        if (chunks > layers.Length)
        {
            throw new ArgumentException(
                $"{group.WorldSize} stages * {options.Schedule.Chunks} chunks each = {chunks} chunks, but the model has {layers.Length} layers to share out: use fewer stages or chunks, or a model of more layers");
        }

        if (group.WorldSize > 1) Replicas.Unify(group, model);

        LayersPerChunk = Divide(model, layers);
        Device device = model.parameters().First().device;
        stage = new PipelineStage(model, LayersPerChunk, group.WorldSize, group.Rank);
        inner.ReplaceModules(stage.Module);
        DeferredGradients? deferred = options.Schedule.SplitsBackward ? new DeferredGradients() : null;
        deferred?.TakeOver(stage.Module);
        TakeChanges();
        exchange = new BoundaryExchange(group, chunks, device);
        run = new StageRun(options.Schedule, stage, exchange, times, (group.Rank, group.WorldSize))
        {
            Deferred = deferred,
            Accumulation = (sums, () => inner.TrainedParameters),
            Failures = BackwardFailure.Of(stage.Module),
        };
        this.model = model;
    }

    /// <inheritdoc/>
    protected internal override bool DividesParameters => true;

    // Stages need each other, whatever the inner strategy does.
    /// <inheritdoc/>
    protected internal override bool ForwardIsCollective => true;

    /// <inheritdoc/>
    public override IReadOnlyList<Parameter> OptimizedParameters(nn.Module model) => inner.OptimizedParameters(Stage.Module);

    /// <inheritdoc/>
    protected internal override Func<Tensor, Tensor, Tensor> LossOf(Func<Tensor, Tensor, Tensor> loss) => inner.LossOf(loss);

    /// <inheritdoc/>
    protected internal override Func<Tensor, Tensor, LossSum> LossOf(Func<Tensor, Tensor, LossSum> loss) => inner.LossOf(loss);

    /// <inheritdoc/>
    protected internal override bool TakesLossSums => true;

    /// <inheritdoc/>
    protected internal override IEnumerable<SampleRange> Samples(DistributedSampler sampler) => inner.Samples(sampler);

    /// <summary>Runs the pipeline forward; the output is on the last stage, null on the others.</summary>
    protected internal override Tensor? Predict(nn.Module<Tensor, Tensor> model, Tensor features)
    {
        ArgumentNullException.ThrowIfNull(features);
        // Shapes may be others than in training, so that they are agreed on anew.
        var messages = new BoundaryExchange(group, chunks, features.device);
        int samples = (int)features.shape[0];
        Tensor? output = null;
        for (int chunk = group.Rank; chunk < chunks; chunk += group.WorldSize)
        {
            using Tensor? received = chunk == 0 ? null : messages.Receive(Crossing.Activation, chunk - 1, 0, samples);
            Tensor input = received is null ? features : messages.OnDevice(received);
            // The inner strategy may have more to do for the output that counts.
            output = chunk == chunks - 1 ? inner.Predict(Stage.LastChunk, input) : Stage.Forward(chunk, input);
            if (chunk < chunks - 1) messages.Send(Crossing.Activation, chunk, 0, samples, output!);
        }

        messages.Flush();
        CommunicationTime += messages.Waited;
        return group.Rank == (chunks - 1) % group.WorldSize ? output : null;
    }

    /// <inheritdoc/>
    protected internal override StepOutcome ComputeGradients(StepBatch batch)
    {
        ArgumentNullException.ThrowIfNull(batch);
        if (run is null) throw new InvalidOperationException("no model is attached; call Attach before the first step");
        long start = Stopwatch.GetTimestamp();
        TimeSpan waited = exchange!.Waited;
        int passes = inner.PassesOf(batch);
        microBatches = Math.Max(microBatches, passes);
        double loss;
        using (inner.NoSync()) loss = run.Run(batch, inner.LossScale, passes);

        long computed = Stopwatch.GetTimestamp();
        if (!tied.AreOptimized) tied.SumGradients();
        Span<double> shared = stackalloc double[3 + StepTimes.SharedLength(chunks)];
        (shared[0], shared[1], shared[2]) = (loss, batch.Weight, batch.StopRequested ? 1 : 0);
        times.Write(shared[3..]);
        group.AllReduce(shared);
        times.Read(shared[3..], group.WorldSize);
        TimeSpan idle = exchange.Waited - waited + Stopwatch.GetElapsedTime(computed);
        times.EndStep(idle, Stopwatch.GetElapsedTime(start));
        CommunicationTime += idle;

        TimeSpan before = inner.CommunicationTime;
        StepOutcome outcome = inner.Synchronize(new StepOutcome((float)shared[0], shared[2] > 0, (float)shared[1]));
        CommunicationTime += inner.CommunicationTime - before;
        // Of whatever the inner strategy made of each copy's gradient, so that compression cannot drive the copies apart.
        if (tied.AreOptimized) tied.SumGradients();
        return outcome;
    }

    /// <inheritdoc/>
    protected internal override double ClipGradients(IReadOnlyList<Parameter> parameters, double maxNorm)
    {
        Span<double> squares = [inner.SquaredGradientNorm(parameter => tied.IsCountedElsewhere(parameter) ? 0 : 1)];
        group.AllReduce(squares);
        double norm = Math.Sqrt(squares[0]);
        ScaleGradients(parameters, norm, maxNorm);
        return norm;
    }

    /// <inheritdoc/>
    protected internal override void UpdateParameters(optim.Optimizer optimizer) => inner.UpdateParameters(optimizer);

    /// <inheritdoc/>
    protected internal override void Complete() => inner.Complete();

    /// <inheritdoc/>
    public override void SynchronizeBuffers() => inner.SynchronizeBuffers();

    /// <inheritdoc/>
    protected internal override void Sum(Span<double> values)
    {
        group.AllReduce(values);
        inner.Sum(values);
    }

    /// <summary>Every rank's <paramref name="values"/>, in the order of a mesh whose dimensions are data, pipeline and, innermost, tensor.</summary>
    public override double[][] Gather(ReadOnlySpan<double> values)
    {
        var pipeline = new double[group.WorldSize * values.Length];
        group.AllGather(values, pipeline.AsSpan());
        // One row for each pair of a data and a tensor coordinate, with the values of that pipeline's stages.
        double[][] rows = inner.Gather(pipeline);
        int tensors = rows.Length / inner.WorldSize, length = values.Length;
        var all = new double[rows.Length * group.WorldSize][];
        for (int row = 0; row < rows.Length; row++)
        {
            (int data, int part) = Math.DivRem(row, tensors);
            for (int other = 0; other < group.WorldSize; other++)
            {
                all[(((data * group.WorldSize) + other) * tensors) + part] = rows[row].AsSpan(other * length, length).ToArray();
            }
        }

        return all;
    }

    /// <inheritdoc/>
    public override IEnumerable<(string Name, Tensor Value)> FullParameters(nn.Module model)
    {
        using IEnumerator<(string Name, Tensor Value)> own = inner.FullParameters(Stage.Module).GetEnumerator();
        var passed = new Dictionary<string, Tensor>();
        ILookup<Tensor, string> names =
            Stage.Parameters.ToLookup(static entry => (Tensor)entry.Parameter, static entry => entry.Name, ModelParameters.Identity);
        var tiedValues = new Dictionary<Tensor, Tensor>(ModelParameters.Identity);
        foreach (PlacedParameter parameter in Stage.Parameters)
        {
            using var noGradient = no_grad();
            (int owner, string name) = parameter.Copies[0];
            if (!tiedValues.Remove(parameter.Parameter, out Tensor? value))
            {
                value = owner == group.Rank ? Find(own, name, passed) : empty(parameter.Shape, parameter.Parameter.dtype).DetachFromDisposeScope();
                Replicas.Broadcast(group, [value], owner);
            }

            yield return (parameter.Name, value);
            if (names[parameter.Parameter].Last() != parameter.Name) tiedValues.Add(parameter.Parameter, value);
            else value.Dispose();
        }

        while (own.MoveNext()) { }
    }

    private protected override IEnumerable<(string Name, Tensor Value)> FullBuffers(nn.Module model)
    {
        foreach ((string name, Tensor tensor, long[] shape, int owner) in Stage.Buffers)
        {
            using var noGradient = no_grad();
            using Tensor value = (owner == group.Rank ? tensor.clone() : empty(shape, tensor.dtype)).DetachFromDisposeScope();
            Replicas.Broadcast(group, [value], owner);
            yield return (name, value);
        }
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        if (disposing)
        {
            exchange?.Free();
            sums.Dispose();
            inner.Dispose();
        }

        base.Dispose(disposing);
    }

    private PipelineStage Stage => stage ?? throw new InvalidOperationException("no model is attached");

    // The model's own order may be another one than that of its layers: what comes too early is kept.
    private static Tensor Find(IEnumerator<(string Name, Tensor Value)> own, string name, Dictionary<string, Tensor> passed)
    {
        if (passed.Remove(name, out Tensor? kept)) return kept;
        while (own.MoveNext())
        {
            (string found, Tensor value) = own.Current;
            Tensor copy = value.detach().clone().DetachFromDisposeScope();
            if (found == name) return copy;
            passed.Add(found, copy);
        }

        throw new InvalidOperationException($"the inner strategy has no parameter '{name}' of this stage");
    }

    private int[] Divide(nn.Module model, nn.Module<Tensor, Tensor>[] layers)
    {
        if (options.LayersPerChunk is { } given)
        {
            long sum = given.Sum(static count => (long)count);
            if (given.Count != chunks || sum != layers.Length || given.Any(static count => count < 1))
            {
                throw new ArgumentException(
                    $"the split is {string.Join(" + ", given)} = {sum} layers in {given.Count} chunks, but the model has {layers.Length} layers for {group.WorldSize} stages * {options.Schedule.Chunks} chunks each = {chunks} chunks");
            }

            return [.. given];
        }

        using var modes = TrainingModes.Evaluate(model);
        (double[] costs, long[] bytes) = LayerCosts.Estimate(layers, options.Sample, inFlight: group.WorldSize);
        if (options.Balance == PipelineBalance.Profiled) costs = AverageOverRanks(group.Rank == 0 ? LayerCosts.Measure(layers, options.Sample!) : new double[layers.Length]);
        return LayerPartition.Balance(costs, chunks, bytes, (options.StageMemoryBytes ?? long.MaxValue) / options.Schedule.Chunks);
    }

    private void TakeChanges()
    {
        inner.Attach(Stage.Module);
        tied.Find(Stage.Parameters, Stage.Module, inner.OptimizesPieces ? null : inner.OptimizedParameters(Stage.Module));
    }

    // All pipelines have to be cut in the same way.
    private double[] AverageOverRanks(double[] costs)
    {
        double[][] all = Gather(costs);
        return [.. costs.Select((_, layer) => all.Sum(rank => rank[layer]))];
    }
}

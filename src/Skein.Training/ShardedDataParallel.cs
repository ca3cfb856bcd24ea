using System.Diagnostics;
using Skein.Collectives;
using Skein.Training.Gradients;
using Skein.Training.Sharding;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training;

/// <summary>
/// Data parallel with the optimizer's state, the gradients and the parameters divided among the ranks (Rajbhandari et al.
/// 2020, "ZeRO: memory optimizations toward training trillion parameter models", stages 1 to 3; in units of modules as Zhao
/// et al. 2023, "PyTorch FSDP"). Equal to a single process, as <see cref="DataParallel"/> is.
/// </summary>
/// <remarks>
/// The <see cref="Trainer"/> has to make the optimizer, since it works on this rank's shards, of which there is one for each
/// unit. Shards are in single precision whatever the model is in. A parameter that was not used in a step counts as one
/// whose gradient is zero; a frozen one stays as it is. Modules have to be called in the same order on all ranks. With stage 3 the
/// model's parameters have values only while their unit is computed. At other times they read as NaN, so that a loss that they went into
/// is NaN, and writing them is an error, at once or when their unit is gathered next: use <see cref="FullParameters"/> or <see cref="GatherParameters"/>, before
/// <see cref="Strategy.Dispose()"/>. Not thread-safe.
/// </remarks>
public sealed class ShardedDataParallel : ReplicaStrategy
{
    // Bytes of a unit from which the heap's holes take more memory than filling them again is worth of time.
    private const long LargeUnit = 16 << 20;

    private readonly ProcessGroup group;
    private readonly ShardedOptions options;
    private readonly BackwardFailure failure = new();
    private readonly List<ShardedUnit> units = [];
    private readonly List<UnitHooks> hooks = [];

    // Which modules need which unit, in the order in which the forward pass is expected to come to them.
    private List<(ShardedUnit Unit, nn.Module<Tensor, Tensor> Module)> uses = [];
    private IReadOnlyList<(string Name, ShardedUnit Unit, Parameter Parameter)> names = [];
    private GradientReducer? reducer;
    private nn.Module? model;
    private Parameter[] trainable = [];
    private bool overlaps;
    private bool returnsMemory;
    private int paused;

    /// <summary>Divides a model among the ranks of <paramref name="group"/>, which stays the caller's to dispose, after this.</summary>
    public ShardedDataParallel(ProcessGroup group, ShardedOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(group);
        this.group = group;
        this.options = options ?? new ShardedOptions();
        if (!Enum.IsDefined(this.options.Stage)) throw new ArgumentOutOfRangeException(nameof(options), this.options.Stage, "the stage is 1, 2 or 3");
    }

    internal override IEnumerable<ProcessGroup> Peers => [group];

    /// <inheritdoc/>
    public override int Rank => group.Rank;

    /// <inheritdoc/>
    public override int WorldSize => group.WorldSize;

    /// <inheritdoc/>
    protected internal override bool DividesParameters => true;

    /// <inheritdoc/>
    protected internal override bool ForwardIsCollective => FreesParameters;

    internal override double LossScale => WorldSize;

    private protected override IReadOnlyList<Parameter> Trainable => trainable;

    private bool FreesParameters => options.Stage == ZeroStage.Parameters;

    /// <summary>
    /// Checks that all ranks have the same model, overwrites its parameters and buffers by those of rank 0, and divides them.
    /// Every rank calls it, once for each model.
    /// </summary>
    /// <exception cref="InvalidOperationException">The ranks' models differ, or another model is attached already.</exception>
    /// <exception cref="NotSupportedException">The model's type or device is none that can be divided.</exception>
    public override void Attach(nn.Module model)
    {
        ArgumentNullException.ThrowIfNull(model);
        if (ReferenceEquals(this.model, model))
        {
            TakeChanges();
            return;
        }

        if (this.model is not null) throw new InvalidOperationException("another model is attached already; use one ShardedDataParallel for each model");
        if (FreesParameters && model.parameters().FirstOrDefault(static parameter => parameter.device_type != DeviceType.CPU) is { } elsewhere)
        {
            throw new NotSupportedException($"stage 3 frees the memory of parameters under the tensors of a graph, which works on the CPU only; the model is on {elsewhere.device}: use stage 2");
        }

        if (WorldSize > 1) Replicas.Unify(group, model);

        overlaps = WorldSize > 1 && Overlap.Decide(group, options.Overlap);
        var unitOf = new Dictionary<Parameter, ShardedUnit>(ModelParameters.Identity);
        foreach (UnitPlan planned in UnitPlan.Of(model, options))
        {
            var unit = new ShardedUnit(group, planned.Name, planned.Parameters, options);
            units.Add(unit);
            foreach (NamedParameter entry in planned.Parameters) unitOf[entry.Parameter] = unit;
            if (options.Stage != ZeroStage.OptimizerState) uses.AddRange(planned.Modules.Select(module => (unit, module)));
        }

        HookUses(model);
        names = [.. model.named_parameters().Where(entry => unitOf.ContainsKey(entry.parameter)).Select(entry => (entry.name, unitOf[entry.parameter], entry.parameter))];
        reducer = new GradientReducer(group, units.Max(static unit => unit.ShardLength), overlaps);
        // What a large gradient was in would be of no use to what comes after it.
        returnsMemory = FreesParameters && units.Max(static unit => unit.Shard.numel() * unit.Shard.ElementSize) * WorldSize >= LargeUnit;
        if (returnsMemory) NativePages.ReturnLargeBlocks();
        this.model = model;
        trainable = ModelParameters.Trainable(model);
    }

    /// <summary>
    /// Gives the attached model's parameters their values until the result is disposed: to save the model, to look at it, or to run parts
    /// of it by themselves. What is put into the parameters meanwhile, by all ranks alike, is kept. Collective, as is the end of it;
    /// not while a step is under way. With stages 1 and 2 they have their values at any time.
    /// </summary>
    public IDisposable GatherParameters()
    {
        if (model is null) throw new InvalidOperationException("no model is attached");
        if (units.Any(static unit => unit.IsHeld))
        {
            throw new InvalidOperationException($"the parameters are gathered already: dispose what {nameof(GatherParameters)} has returned first");
        }

        using var noGradient = no_grad();
        foreach (ShardedUnit unit in units) unit.Gather();
        foreach (ShardedUnit unit in units) unit.IsHeld = true;
        return new Gathering(units);
    }

    /// <inheritdoc/>
    public override IDisposable NoSync() => new Pause(this);

    /// <inheritdoc/>
    protected internal override StepOutcome ComputeGradients(StepBatch batch)
    {
        ArgumentNullException.ThrowIfNull(batch);
        if (units.Any(static unit => unit.IsHeld))
        {
            throw new InvalidOperationException($"what {nameof(GatherParameters)} has returned is to be disposed before a step");
        }

        // Stage 1 keeps whole gradients in any case, so that it sends them once.
        if (options.Stage == ZeroStage.OptimizerState) return base.ComputeGradients(batch);
        float loss = batch.RunBackward(
            LossScale,
            (scaled, last) =>
            {
                scaled.backward();
                failure.ThrowIfAny();
                if (!last) EndPass();
            },
            batch.MostMicroBatches(WorldSize));
        return Synchronize(batch.Outcome(loss));
    }

    internal override bool OptimizesPieces => true;

    /// <inheritdoc/>
    public override IReadOnlyList<Parameter> OptimizedParameters(nn.Module model) =>
        [.. units.Where(static unit => unit.IsTrained).Select(static unit => unit.Shard)];

    /// <inheritdoc/>
    protected internal override void UpdateParameters(optim.Optimizer optimizer)
    {
        base.UpdateParameters(optimizer);
        long start = Stopwatch.GetTimestamp();
        using var noGradient = no_grad();
        foreach (ShardedUnit unit in units) unit.TakeUpdate();
        // Holes between what lives on would be there besides the next gathered unit and its gradient.
        if (returnsMemory) NativePages.TrimHeap();
        CommunicationTime += Stopwatch.GetElapsedTime(start);
    }

    /// <inheritdoc/>
    protected internal override double ClipGradients(IReadOnlyList<Parameter> parameters, double maxNorm)
    {
        double norm = Math.Sqrt(SquaredGradientNorm(static _ => 1));
        ScaleGradients(parameters, norm, maxNorm);
        return norm;
    }

    internal override double SquaredGradientNorm(Func<Parameter, double> weight)
    {
        using DisposeScope scope = NewDisposeScope();
        Span<double> sum = [0];
        foreach (ShardedUnit unit in units)
        {
            foreach ((Parameter parameter, Tensor gradient) in unit.GradientParts()) sum[0] += weight(parameter) * Math.Pow(gradient.norm().ToDouble(), 2);
        }

        group.AllReduce(sum);
        return sum[0];
    }

    /// <inheritdoc/>
    public override void SynchronizeBuffers()
    {
        if (WorldSize > 1) Replicas.Broadcast(group, model!.buffers());
    }

    /// <inheritdoc/>
    protected internal override void Sum(Span<double> values) => group.AllReduce(values);

    /// <inheritdoc/>
    public override IEnumerable<(string Name, Tensor Value)> FullParameters(nn.Module model)
    {
        ShardedUnit? gathered = null;
        try
        {
            foreach ((string name, ShardedUnit unit, Parameter parameter) in names)
            {
                if (unit != gathered) gathered?.Release();
                gathered = unit;
                using (var noGradient = no_grad()) unit.Gather();
                yield return (name, parameter);
            }
        }
        finally
        {
            gathered?.Release();
        }
    }

    /// <summary>
    /// Writes a checkpoint for as many ranks to <paramref name="directory"/>, each rank its own part: the shards, the optimizer's state
    /// and the model's buffers. Collective; between two steps. For one that any number of ranks, or another program, can read, write
    /// <see cref="Strategy.FullState"/>.
    /// </summary>
    public void Save(string directory, optim.Optimizer optimizer)
    {
        ArgumentException.ThrowIfNullOrEmpty(directory);
        ArgumentNullException.ThrowIfNull(optimizer);
        ShardedCheckpoint.Save(directory, group, units, Buffers, optimizer);
    }

    /// <summary>
    /// Reads what <see cref="Save"/> wrote into the attached model and the optimizer over its shards, for example in the function
    /// that makes the <see cref="Trainer"/>'s optimizer. Collective.
    /// </summary>
    /// <exception cref="InvalidDataException">It is incomplete, damaged, or of another model or number of ranks.</exception>
    public void Load(string directory, optim.Optimizer optimizer)
    {
        ArgumentException.ThrowIfNullOrEmpty(directory);
        ArgumentNullException.ThrowIfNull(optimizer);
        ShardedCheckpoint.Load(directory, group, units, Buffers, optimizer);
        using var noGradient = no_grad();
        foreach (ShardedUnit unit in units) unit.TakeUpdate();
    }

    private IReadOnlyList<(string Name, Tensor Value)> Buffers =>
        model is null ? throw new InvalidOperationException("no model is attached") : [.. model.named_buffers()];

    private protected override StepOutcome Agree(StepOutcome own)
    {
        if (model is null) throw new InvalidOperationException("no model is attached; call Attach before the first step");
        failure.ThrowIfAny();
        EndPass();
        long start = Stopwatch.GetTimestamp();
        StepOutcome mean = Agreement.Average(group, own);
        CommunicationTime += Stopwatch.GetElapsedTime(start);
        return mean;
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        if (disposing)
        {
            foreach (UnitHooks hook in hooks) hook.Dispose();
            foreach (ShardedUnit unit in units) unit.Dispose();
            reducer?.Dispose();
            hooks.Clear();
            units.Clear();
        }

        base.Dispose(disposing);
    }

    private void TakeChanges()
    {
        foreach (ShardedUnit unit in units)
        {
            unit.LookAtTrained();
            unit.TakeChanges();
        }

        trainable = ModelParameters.Trainable(model!);
    }

    private void HookUses(nn.Module model)
    {
        nn.Module[] order = [model, .. model.modules()];
        uses = [.. uses.OrderBy(use => Array.IndexOf(order, use.Module))];
        for (int i = 0; i < uses.Count; i++)
        {
            (int index, ShardedUnit unit, nn.Module<Tensor, Tensor> module) = (i, uses[i].Unit, uses[i].Module);
            // What comes last in the forward pass is first in the backward pass; the model itself is around all others.
            bool keeps = module == uses[^1].Module || module == model;
            // What is looked up needs no values to get its gradient.
            bool reads = ReadsInBackward(unit, module);
            // The gradient of tied parameters is summed up where the backward pass comes to them last.
            bool isLast = uses.FindIndex(use => use.Unit == unit) == i;
            hooks.Add(new UnitHooks(
                module,
                () => Begin(index, 1),
                hasGraph =>
                {
                    if (!hasGraph || !keeps) unit.Release();
                },
                () => failure.Run(() =>
                {
                    if (FreesParameters && !unit.HasBegunBackward && unit.HasGradients) throw UsedOutsideOfCalls(unit);
                    unit.HasBegunBackward = true;
                    unit.IsReduced = false;
                    if (reads) Begin(index, -1);
                }),
                () => failure.Run(() => AfterBackward(unit, isLast))));
        }
    }

    private void Begin(int use, int direction)
    {
        using var noGradient = no_grad();
        long start = Stopwatch.GetTimestamp();
        uses[use].Unit.Gather();
        CommunicationTime += Stopwatch.GetElapsedTime(start);
        int next = use + direction;
        if (overlaps && next >= 0 && next < uses.Count) uses[next].Unit.StartGather(inBackground: true);
    }

    // What has a gradient by then was used where its values were elsewhere.
    private static InvalidOperationException UsedOutsideOfCalls(ShardedUnit unit) => new(
        $"parameters of '{unit.Name}' ({string.Join(", ", unit.Parameters.Select(static entry => entry.Name))}) are used outside of a call of its module, " +
        "where stage 3 has not gathered them: call the module, and not its forward or another of its methods; or choose larger units, or stage 2");

    private static bool ReadsInBackward(ShardedUnit unit, nn.Module module) => module.modules().Append(module)
        .Where(owner => owner.named_parameters(recurse: false).Any(own => unit.Parameters.Any(entry => ModelParameters.Identity.Equals(entry.Parameter, own.parameter))))
        .Any(static owner => owner is not Embedding);

    private void AfterBackward(ShardedUnit unit, bool isLast)
    {
        using var noGradient = no_grad();
        if (isLast && paused == 0 && unit.IsTrained) reducer!.Start(unit);
        unit.Release();
    }

    /// <summary>Reduces what no module has told the end of, and frees what is gathered still.</summary>
    private void EndPass()
    {
        using var noGradient = no_grad();
        TimeSpan before = reducer!.WaitTime;
        foreach (ShardedUnit unit in units.AsEnumerable().Reverse())
        {
            bool hasGradients = unit.HasGradients;
            if (FreesParameters && hasGradients && (unit.IsReduced || !unit.HasBegunBackward)) throw UsedOutsideOfCalls(unit);
            // One that is used outside of its module may get a gradient after that has been reduced.
            if (unit.IsTrained && (!unit.IsReduced || hasGradients)) reducer.Start(unit);
            unit.IsReduced = unit.HasBegunBackward = false;
            unit.Release();
        }

        reducer.Finish();
        CommunicationTime += reducer.WaitTime - before;
    }

    private sealed class Gathering(IReadOnlyList<ShardedUnit> units) : IDisposable
    {
        public void Dispose()
        {
            using var noGradient = no_grad();
            foreach (ShardedUnit unit in units.Where(static unit => unit.IsHeld))
            {
                unit.TakeChanges();
                unit.IsHeld = false;
                unit.Release();
            }
        }
    }

    private sealed class Pause : IDisposable
    {
        private ShardedDataParallel? owner;

        public Pause(ShardedDataParallel owner)
        {
            this.owner = owner;
            owner.paused++;
        }

        public void Dispose()
        {
            if (owner is null) return;
            owner.paused--;
            owner = null;
        }
    }
}

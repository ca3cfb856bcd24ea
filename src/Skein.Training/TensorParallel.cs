using System.Security.Cryptography;
using Skein.Collectives;
using Skein.Training.Gradients;
using Skein.Training.TensorParallelism;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training;

/// <summary>
/// The ranks divide the layers of one model: each holds a part of every large weight and computes that part of the layer's outputs or
/// inputs, on the same samples as the others (Shoeybi et al. 2019, "Megatron-LM: Training multi-billion parameter language models
/// using model parallelism"), with the layers between the divided ones shared out along the sequence if the plan says so (Korthikanti et
/// al. 2022, "Reducing activation recomputation in large transformer models").
/// </summary>
/// <remarks>
/// The optimizer is made by the <see cref="Trainer"/>. Where the plan has a <see cref="TensorParallelKind.Head"/>, the loss has to be
/// the cross-entropy over positions whose label is not -100, their mean or a <see cref="LossSum"/>: it is computed from the parts of the logits, and the function that the trainer was given is not called
/// for them. All ranks of a tensor group have to draw the same random numbers if the model has dropout. Not thread-safe.
/// </remarks>
public sealed class TensorParallel : ReplicaStrategy
{
    private readonly ProcessGroup group;
    private readonly TensorParallelPlan plan;
    private readonly ReplicaStrategy inner;
    private readonly TensorCollectives collectives;
    private readonly BackwardFailure failure = new();
    private readonly ParallelRegion region;
    private nn.Module? model;
    private Parameter[] trainable = [];
    private PartitionedModel? partitioned;
    private IReadOnlyList<Parameter> optimized = [];
    private ReplicatedGradients? replicated;

    // For an inner strategy that leaves gradients in pieces of its own: until they are the same on all ranks, it gets none.
    private IDisposable? pause;

    /// <summary>Divides a model among the ranks of <paramref name="group"/>, which stays the caller's to dispose, after this.</summary>
    /// <param name="group">The ranks that hold one copy of the model; they see the same samples.</param>
    /// <param name="plan">What becomes of its modules.</param>
    /// <param name="inner">
    /// How copies of the model share the samples, among ranks that hold the same part: <see cref="DataParallel"/> or
    /// <see cref="ShardedDataParallel"/> over the data dimension of a mesh. This strategy's to dispose. Null: there is one copy.
    /// </param>
    public TensorParallel(ProcessGroup group, TensorParallelPlan plan, ReplicaStrategy? inner = null)
    {
        ArgumentNullException.ThrowIfNull(group);
        ArgumentNullException.ThrowIfNull(plan);
        this.group = group;
        this.plan = plan;
        this.inner = inner ?? new SingleProcess();
        this.inner.CanAllStep = own => CanAllStep(Agreement.All(group, own));
        collectives = new TensorCollectives(group);
        region = new ParallelRegion(collectives, failure, plan.SequenceParallel);
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

    /// <inheritdoc/>
    protected internal override bool DividesParameters => true;

    /// <inheritdoc/>
    protected internal override bool ForwardIsCollective => inner.ForwardIsCollective;

    internal override double LossScale => inner.LossScale;

    internal override bool OptimizesPieces => inner.OptimizesPieces;

    private protected override IReadOnlyList<Parameter> Trainable => trainable;

    /// <summary>Makes the model that of the group's rank 0 on all of them, and leaves each rank its part of it. Every rank calls it.</summary>
    /// <exception cref="ArgumentException">The plan does not fit the model; says the module and the arithmetic.</exception>
    /// <exception cref="InvalidOperationException">The ranks' models or random generators differ, or another model is attached already.</exception>
    public override void Attach(nn.Module model)
    {
        ArgumentNullException.ThrowIfNull(model);
        if (this.model is not null && !ReferenceEquals(this.model, model)) throw new InvalidOperationException("another model is attached already; use one TensorParallel for each model");
        PartitionedModel parts = partitioned ?? Partition(model);
        inner.Attach(model);
        optimized = inner.OptimizedParameters(model);
        Parameter[] trained = ModelParameters.Trainable(model);
        if (this.model is not null && trained.SequenceEqual(trainable, ModelParameters.Identity)) return;
        trainable = trained;
        if (OptimizesPieces) pause ??= inner.NoSync();
        replicated?.Dispose();
        replicated = new ReplicatedGradients(collectives, trainable.Zip(OptimizesPieces ? trainable : optimized)
            .Where(pair => !parts.IsDivided(pair.First))
            .Select(pair => (pair.Second, parts.IsSliced(pair.First))));
        this.model = model;
    }

    internal override void ReplaceModules(nn.Module model) => Partition(model);

    private PartitionedModel Partition(nn.Module model)
    {
        if (group.WorldSize > 1)
        {
            Replicas.Unify(group, model);
            if (model.modules().Any(static module => module is Dropout { p: > 0 })) CheckGenerators();
        }

        return partitioned = new PartitionedModel(model, plan, region);
    }

    /// <inheritdoc/>
    public override IDisposable NoSync() => inner.NoSync();

    internal override void BeginLastBackward() => inner.BeginLastBackward();

    /// <inheritdoc/>
    protected internal override StepOutcome ComputeGradients(StepBatch batch)
    {
        ArgumentNullException.ThrowIfNull(batch);
        BeginStep();
        float loss = batch.RunBackward(
            LossScale,
            (part, last) =>
            {
                Backward(part, last);
                failure.ThrowIfAny();
            },
            PassesOf(batch));
        return Synchronize(batch.Outcome(loss));
    }

    /// <inheritdoc/>
    public override IReadOnlyList<Parameter> OptimizedParameters(nn.Module model) => optimized;

    /// <inheritdoc/>
    protected internal override void UpdateParameters(optim.Optimizer optimizer) => inner.UpdateParameters(optimizer);

    /// <inheritdoc/>
    protected internal override Func<Tensor, Tensor, Tensor> LossOf(Func<Tensor, Tensor, Tensor> loss)
    {
        Func<Tensor, Tensor, Tensor> whole = inner.LossOf(loss);
        if (partitioned?.Vocabulary is not { } vocabulary) return whole;
        // Gathered outputs come from Predict.
        return (output, labels) => output.shape[^1] == vocabulary ? whole(output, labels) : ParallelCrossEntropy.Compute(region, output, labels, vocabulary).Loss;
    }

    /// <inheritdoc/>
    protected internal override Func<Tensor, Tensor, LossSum> LossOf(Func<Tensor, Tensor, LossSum> loss)
    {
        Func<Tensor, Tensor, LossSum> whole = inner.LossOf(loss);
        if (partitioned?.Vocabulary is not { } vocabulary) return whole;
        return (output, labels) =>
        {
            if (output.shape[^1] == vocabulary) return whole(output, labels);
            (Tensor sum, long count) = ParallelCrossEntropy.Compute(region, output, labels, vocabulary, average: false);
            return new LossSum(sum, count);
        };
    }

    /// <summary>Runs the attached model: this rank's part of the logits where they are divided, all of them if they are [n, classes].</summary>
    protected internal override Tensor? Predict(nn.Module<Tensor, Tensor> model, Tensor features) =>
        inner.Predict(model, features) is { } output
            ? partitioned?.Vocabulary is { } vocabulary && output.dim() == 2 ? region.GatherFeatures(output, vocabulary) : output
            : null;

    /// <inheritdoc/>
    protected internal override double ClipGradients(IReadOnlyList<Parameter> parameters, double maxNorm)
    {
        double norm = Math.Sqrt(SquaredGradientNorm(static _ => 1));
        ScaleGradients(parameters, norm, maxNorm);
        return norm;
    }

    /// <inheritdoc/>
    internal override double SquaredGradientNorm(Func<Parameter, double> weight)
    {
        Span<double> sum = [inner.SquaredGradientNorm(parameter => weight(parameter) / (partitioned!.IsDivided(parameter) ? 1 : group.WorldSize))];
        group.AllReduce(sum);
        return sum[0];
    }

    /// <inheritdoc/>
    protected internal override void Complete() => inner.Complete();

    /// <inheritdoc/>
    public override void SynchronizeBuffers()
    {
        inner.SynchronizeBuffers();
        if (group.WorldSize > 1) Replicas.Broadcast(group, model!.buffers());
    }

    /// <inheritdoc/>
    protected internal override void Sum(Span<double> values) => inner.Sum(values);

    /// <inheritdoc/>
    public override IEnumerable<(string Name, Tensor Value)> FullParameters(nn.Module model)
    {
        foreach ((string name, Tensor value) in inner.FullParameters(model))
        {
            if (group.WorldSize == 1 || partitioned?.PartitionOf(name) is not { } partition)
            {
                yield return (name, value);
                continue;
            }

            using Tensor part = value.detach();
            using Tensor whole = collectives.AllGather(part, partition.Dimension, partition.Length);
            yield return (name, whole);
        }
    }

    /// <inheritdoc/>
    public override double[][] Gather(ReadOnlySpan<double> values)
    {
        double[] mine = [.. inner.Gather(values).SelectMany(static row => row)];
        var all = new double[group.WorldSize * mine.Length];
        group.AllGather(mine, all.AsSpan());
        int length = values.Length;
        return [.. Enumerable.Range(0, all.Length / Math.Max(length, 1)).Select(row =>
        {
            (int copy, int rank) = Math.DivRem(row, group.WorldSize);
            return all.AsSpan((rank * mine.Length) + (copy * length), length).ToArray();
        })];
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        if (disposing)
        {
            inner.Dispose();
            replicated?.Dispose();
            collectives.Dispose();
        }

        base.Dispose(disposing);
    }

    // Sums over the two dimensions may come in either order. After the inner strategy where that leaves gradients of parameters: it may
    // overlap its communication with the backward pass, and has them before. Any rank's wish to stop is known to its copies by then, and
    // here to the ranks of each.
    private protected override StepOutcome Agree(StepOutcome own)
    {
        if (model is null) throw new InvalidOperationException("no model is attached; call Attach before the first step");
        failure.ThrowIfAny();
        StepOutcome outcome;
        if (pause is null)
        {
            outcome = inner.Synchronize(own);
            SynchronizeReplicated();
        }
        else
        {
            SynchronizeReplicated();
            pause.Dispose();
            outcome = inner.Synchronize(own);
            pause = inner.NoSync();
        }

        bool stopped = !Agreement.All(group, !outcome.Stop);
        CommunicationTime = collectives.Time + inner.CommunicationTime;
        return outcome with { Stop = stopped };
    }

    private void SynchronizeReplicated()
    {
        if (group.WorldSize == 1) return;
        using var noGradient = no_grad();
        replicated!.Synchronize();
    }

    // Else what is whole on every rank would drop other elements on each of them, and be no longer the same.
    private void CheckGenerators()
    {
        using Tensor state = random.get_rng_state();
        Span<long> extremes = [BitConverter.ToInt64(SHA256.HashData(state.bytes)), 0];
        extremes[1] = ~extremes[0];
        group.AllReduce(extremes, ReduceOperation.Max);
        if (extremes[0] == ~extremes[1]) return;
        throw new InvalidOperationException("the ranks that divide a model have random generators in different states, so that dropout would differ where they have to agree: call torch.random.manual_seed with one number on all of them, and draw equally often before training");
    }
}

using System.Diagnostics;
using System.Runtime.ExceptionServices;
using System.Text;
using Skein.Collectives;
using Skein.Training.Compression;
using Skein.Training.Gradients;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training;

/// <summary>
/// Every rank holds the whole model and takes its slice of each global batch; gradients are averaged over the ranks in
/// fused buckets, so that all ranks apply the same update and stay bitwise equal (Li et al. 2020, "PyTorch
/// Distributed").
/// </summary>
/// <remarks>
/// As a <see cref="Trainer"/>'s strategy, or in a loop of one's own: <see cref="Attach"/> the model, and call
/// <see cref="SynchronizeGradients"/> between <c>backward()</c> and the optimizer's step. There, the average is over
/// ranks, so ranks have to have equally large batches for it to be the mean over samples.
/// A parameter that no rank used in a step keeps no gradient, as in one process; one that some used counts as zero on
/// the others. Where communication overlaps the backward pass, the group must not be used for anything else between
/// forward and <see cref="SynchronizeGradients"/>. Not thread-safe.
/// </remarks>
public sealed class DataParallel : ReplicaStrategy
{
    private readonly ProcessGroup group;
    private DataParallelOptions options;
    private readonly List<GradientBucket> buckets = [];
    private nn.Module? model;
    private Parameter[] trainable = [];
    private BackwardObserver? observer;
    private int started;
    private int paused;
    private Exception? failure;

    /// <summary>Averages over the ranks of <paramref name="group"/>, which stays the caller's to dispose, after this.</summary>
    public DataParallel(ProcessGroup group, DataParallelOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(group);
        this.group = group;
        this.options = options ?? new DataParallelOptions();
        ArgumentOutOfRangeException.ThrowIfLessThan(this.options.BucketBytes, 1, nameof(options));
        ArgumentOutOfRangeException.ThrowIfLessThan(this.options.FirstBucketBytes, 1, nameof(options));
        this.options.Compression?.Validate();
    }

    internal override IEnumerable<ProcessGroup> Peers => [group];

    /// <inheritdoc/>
    public override int Rank => group.Rank;

    /// <inheritdoc/>
    public override int WorldSize => group.WorldSize;

    /// <summary>
    /// Steps in which some rank's gradients were not finite, so that all ranks left their parameters as they were. Counted
    /// where gradients are compressed.
    /// </summary>
    public long SkippedSteps { get; private set; }

    /// <summary>What compresses the gradients, once a model is attached; null for nothing.</summary>
    public CompressionRules? Compression => options.Compression?.Rules;

    /// <summary>What compression has done on this rank so far.</summary>
    public CompressionStatistics CompressionStatistics => CompressedAverage.Sum([.. buckets.OfType<CompressedBucket>().Select(static bucket => bucket.Average)]);

    /// <summary>
    /// Checks that all ranks have the same model, and overwrites its parameters and buffers by those of rank 0. Every
    /// rank calls it, once for each model.
    /// </summary>
    /// <exception cref="InvalidOperationException">The ranks' models differ, or another model is attached already.</exception>
    public override void Attach(nn.Module model)
    {
        ArgumentNullException.ThrowIfNull(model);
        if (ReferenceEquals(this.model, model)) return;
        if (this.model is not null) throw new InvalidOperationException("another model is attached already; use one DataParallel for each model");
        trainable = [.. model.parameters().Where(static parameter => parameter.requires_grad)];
        if (trainable.Length == 0) throw new ArgumentException("the model has no parameter that requires a gradient", nameof(model));
        if (WorldSize > 1)
        {
            Replicas.Unify(group, model);
            // The buckets depend on it, so all ranks have to agree.
            bool overlaps = Overlap.Decide(group, options.Overlap);
            if (options.Compression is { } compression) options = options with { Compression = CompressionChoice.Resolve(group, compression, model) };
            TaskScheduler inOrder = new ConcurrentExclusiveSchedulerPair().ExclusiveScheduler;
            foreach (IReadOnlyList<NamedParameter> parameters in BucketPlan.Of(model, options, overlaps))
            {
                buckets.Add(options.Compression is { } chosen
                    ? new CompressedBucket(group, parameters, chosen.Rules.Of(parameters[0].Name), chosen, buckets.Count, inOrder)
                    : GradientBucket.Create(group, parameters));
            }

            if (overlaps && buckets.Count > 1) observer = new BackwardObserver(model, buckets, StartCompleteBuckets);
        }

        this.model = model;
    }

    /// <summary>
    /// Averages the gradients over the ranks: waits for what the backward pass has started, and sends the rest. Every
    /// rank calls it once a step, also one that had nothing to compute.
    /// </summary>
    public void SynchronizeGradients() => Synchronize(0, false);

    /// <inheritdoc/>
    public override IDisposable NoSync() => new Pause(this);

    /// <summary>Writes what this rank has kept of its gradients between two steps, to go on later with <see cref="LoadCompression"/>.</summary>
    public void SaveCompression(Stream stream)
    {
        using var writer = new BinaryWriter(stream, Encoding.UTF8, leaveOpen: true);
        foreach (CompressedBucket bucket in buckets.OfType<CompressedBucket>()) bucket.Save(writer);
    }

    /// <summary>Reads what <see cref="SaveCompression"/> wrote on this rank of as large a job; a model has to be attached.</summary>
    /// <exception cref="InvalidDataException">It was of another model or compression.</exception>
    public void LoadCompression(Stream stream)
    {
        using var reader = new BinaryReader(stream, Encoding.UTF8, leaveOpen: true);
        foreach (CompressedBucket bucket in buckets.OfType<CompressedBucket>()) bucket.Load(reader);
    }

    // The average over ranks divides by the world size; scaling each share by it leaves the mean over samples.
    internal override double LossScale => WorldSize;

    private protected override IReadOnlyList<Parameter> Trainable => trainable;

    /// <inheritdoc/>
    protected internal override void SynchronizeBuffers()
    {
        if (WorldSize > 1) Replicas.Broadcast(group, model!.buffers());
    }

    /// <inheritdoc/>
    protected internal override void Sum(Span<double> values) => group.AllReduce(values);

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        if (disposing)
        {
            observer?.Dispose();
            foreach (GradientBucket bucket in buckets) bucket.Dispose();
            buckets.Clear();
        }

        base.Dispose(disposing);
    }

    private protected override StepOutcome Agree(float loss, bool stop)
    {
        if (model is null) throw new InvalidOperationException("no model is attached; call Attach before the first step");
        if (WorldSize == 1) return new StepOutcome(loss, stop);
        try
        {
            if (failure is not null) ExceptionDispatchInfo.Throw(failure);
            using var noGradient = no_grad();
            GradientBucket? carrier = buckets[^1].CarriesScalars ? buckets[^1] : null;
            carrier?.SetScalars(loss, stop ? 1 : 0);
            while (started < buckets.Count) Start(inBackground: false);
            foreach (GradientBucket bucket in buckets)
            {
                long start = Stopwatch.GetTimestamp();
                bucket.Wait();
                CommunicationTime += Stopwatch.GetElapsedTime(start);
                if (options.Compression is null) bucket.Give();
            }

            if (options.Compression is not null) GiveIfFinite();
            (float meanLoss, float anyStop) = carrier?.GetScalars() ?? AverageScalars(loss, stop ? 1 : 0);
            return new StepOutcome(meanLoss, anyStop > 0);
        }
        finally
        {
            started = 0;
            observer?.Reset();
        }
    }

    // Without gradients an optimizer does nothing.
    private void GiveIfFinite()
    {
        bool finite = CanAllStep(buckets.Cast<CompressedBucket>().All(static bucket => bucket.IsFinite));
        if (!finite) SkippedSteps++;
        foreach (CompressedBucket bucket in buckets.Cast<CompressedBucket>())
        {
            bucket.Average.Settle(finite);
            if (finite) bucket.Give();
        }
    }

    private void Start(bool inBackground)
    {
        GradientBucket bucket = buckets[started++];
        bucket.Take();
        long start = Stopwatch.GetTimestamp();
        bucket.AllReduce(inBackground);
        CommunicationTime += Stopwatch.GetElapsedTime(start);
    }

    // Runs inside the backward pass, where an exception would end the process: it is kept for SynchronizeGradients.
    private void StartCompleteBuckets(int call)
    {
        if (paused > 0 || failure is not null) return;
        try
        {
            using var noGradient = no_grad();
            while (started < buckets.Count - 1 && observer!.IsComplete(started, call)) Start(inBackground: true);
        }
        catch (Exception error)
        {
            failure = error;
        }
    }

    private (float, float) AverageScalars(float first, float second)
    {
        Span<float> scalars = [first, second];
        long start = Stopwatch.GetTimestamp();
        group.AllReduce(scalars, ReduceOperation.Average);
        CommunicationTime += Stopwatch.GetElapsedTime(start);
        return (scalars[0], scalars[1]);
    }

    private sealed class Pause : IDisposable
    {
        private DataParallel? owner;

        public Pause(DataParallel owner)
        {
            this.owner = owner;
            owner.paused++;
        }

        public void Dispose()
        {
            if (owner is null) return;
            owner.paused--;
            // What ran so far is accumulated; only the passes from here on decide when a bucket is complete.
            owner.observer?.Reset();
            owner = null;
        }
    }
}

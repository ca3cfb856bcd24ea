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
    private bool overlaps;
    private bool isLastBackward;
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
    /// rank calls it, and again when other parameters are to be trained; what compression has kept then begins anew.
    /// </summary>
    /// <exception cref="InvalidOperationException">The ranks' models differ, or another model is attached already.</exception>
    public override void Attach(nn.Module model)
    {
        ArgumentNullException.ThrowIfNull(model);
        bool isFirst = this.model is null;
        if (!isFirst && !ReferenceEquals(this.model, model)) throw new InvalidOperationException("another model is attached already; use one DataParallel for each model");
        Parameter[] trained = ModelParameters.Trainable(model);
        if (!isFirst && trained.SequenceEqual(trainable, ModelParameters.Identity)) return;
        if (WorldSize > 1)
        {
            if (isFirst) Unify(model);
            else Replicas.Check(group, model);
            MakeBuckets(model);
        }

        trainable = trained;
        this.model = model;
    }

    /// <summary>
    /// Averages the gradients over the ranks: waits for what the backward pass has started, and sends the rest. Every
    /// rank calls it once a step, also one that had nothing to compute.
    /// </summary>
    public void SynchronizeGradients() => Synchronize(new StepOutcome(0, false));

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
    public override void SynchronizeBuffers()
    {
        if (WorldSize > 1) Replicas.Broadcast(group, model!.buffers());
    }

    /// <inheritdoc/>
    protected internal override void Sum(Span<double> values) => group.AllReduce(values);

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        if (disposing) DropBuckets();
        base.Dispose(disposing);
    }

    private void Unify(nn.Module model)
    {
        Replicas.Unify(group, model);
        // The buckets depend on it, so all ranks have to agree.
        overlaps = Overlap.Decide(group, options.Overlap);
        if (options.Compression is { } compression) options = options with { Compression = CompressionChoice.Resolve(group, compression, model) };
    }

    private void MakeBuckets(nn.Module model)
    {
        DropBuckets();
        TaskScheduler inOrder = new ConcurrentExclusiveSchedulerPair().ExclusiveScheduler;
        foreach (IReadOnlyList<NamedParameter> parameters in BucketPlan.Of(model, options, overlaps))
        {
            buckets.Add(options.Compression is { } chosen
                ? new CompressedBucket(group, parameters, chosen.Rules.Of(parameters[0].Name), chosen, buckets.Count, inOrder)
                : GradientBucket.Create(group, parameters));
        }

        if (overlaps && buckets.Count > 1) observer = new BackwardObserver(model, buckets, StartCompleteBuckets);
    }

    private void DropBuckets()
    {
        observer?.Dispose();
        observer = null;
        foreach (GradientBucket bucket in buckets) bucket.Dispose();
        buckets.Clear();
    }

    private protected override StepOutcome Agree(StepOutcome own)
    {
        if (model is null) throw new InvalidOperationException("no model is attached; call Attach before the first step");
        if (WorldSize == 1) return own;
        try
        {
            if (failure is not null) ExceptionDispatchInfo.Throw(failure);
            using var noGradient = no_grad();
            GradientBucket? carrier = buckets.Count > 0 && buckets[^1].CarriesScalars ? buckets[^1] : null;
            carrier?.SetScalars(own);
            while (started < buckets.Count) Start(inBackground: false);
            foreach (GradientBucket bucket in buckets)
            {
                long start = Stopwatch.GetTimestamp();
                bucket.Wait();
                CommunicationTime += Stopwatch.GetElapsedTime(start);
                if (options.Compression is null) bucket.Give();
            }

            if (options.Compression is not null) GiveIfFinite();
            return carrier?.GetScalars() ?? Average(own);
        }
        finally
        {
            started = 0;
            isLastBackward = false;
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

    internal override void BeginLastBackward() => isLastBackward = true;

    // Runs inside the backward pass, where an exception would end the process: it is kept for SynchronizeGradients.
    private void StartCompleteBuckets(int call)
    {
        if (paused > 0 || failure is not null || !(isLastBackward || options.Overlap == true)) return;
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

    private StepOutcome Average(StepOutcome own)
    {
        long start = Stopwatch.GetTimestamp();
        StepOutcome mean = Agreement.Average(group, own);
        CommunicationTime += Stopwatch.GetElapsedTime(start);
        return mean;
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

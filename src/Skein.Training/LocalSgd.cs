using System.Diagnostics;
using Skein.Collectives;
using Skein.Training.Compression;
using Skein.Training.Gradients;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training;

/// <summary>
/// Every rank trains by itself, with an optimizer of its own on its slice of each global batch, and the ranks meet every
/// H steps only (Stich 2019, "Local SGD converges fast and communicates little"): H times fewer bytes than
/// <see cref="DataParallel"/>. What they do when they meet is the options': average, or take an outer step (DiLoCo).
/// </summary>
/// <remarks>
/// A step's loss is that of this rank's samples, before the update: the mean over ranks would cost a round trip in every
/// step. A rank that asks to stop is heard when the ranks meet next. Parameters are equal on all ranks after each meeting
/// of all fragments, and at the end of a fit. Not thread-safe.
/// </remarks>
public sealed class LocalSgd : Strategy
{
    private readonly ProcessGroup group;
    private readonly LocalSgdOptions options;
    private readonly List<ParameterFragment> fragments = [];
    private nn.Module? model;
    private Parameter[] trainable = [];
    private StepOutcome last;
    private bool stopRequested;
    private bool stopAgreed;
    private long steps;

    /// <summary>Trains on the ranks of <paramref name="group"/>, which stays the caller's to dispose, after this.</summary>
    /// <exception cref="ArgumentException">An option is out of range.</exception>
    public LocalSgd(ProcessGroup group, LocalSgdOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(group);
        this.group = group;
        this.options = options ?? new LocalSgdOptions();
        this.options.Validate();
    }

    internal override IEnumerable<ProcessGroup> Peers => [group];

    /// <inheritdoc/>
    public override int Rank => group.Rank;

    /// <inheritdoc/>
    public override int WorldSize => group.WorldSize;

    /// <summary>What compression has done on this rank so far.</summary>
    public CompressionStatistics CompressionStatistics => CompressedAverage.Sum([.. fragments.Select(static fragment => fragment.Compressed).OfType<CompressedAverage>()]);

    /// <summary>
    /// Checks that all ranks have the same model, and overwrites its parameters and buffers by those of rank 0. Again, when values were put into
    /// the model (the same on all ranks), or others of its parameters are to be trained; then the outer optimizer begins anew.
    /// </summary>
    /// <exception cref="InvalidOperationException">The ranks' models differ, or another model is attached already.</exception>
    public override void Attach(nn.Module model)
    {
        ArgumentNullException.ThrowIfNull(model);
        bool isFirst = this.model is null;
        if (!isFirst && !ReferenceEquals(this.model, model)) throw new InvalidOperationException("another model is attached already; use one LocalSgd for each model");
        Parameter[] parameters = ModelParameters.Trainable(model);
        if (!isFirst && parameters.SequenceEqual(trainable, ModelParameters.Identity))
        {
            foreach (ParameterFragment fragment in fragments) fragment.TakeAnchor();
            return;
        }

        if (isFirst) Replicas.Unify(group, model);
        else Replicas.Check(group, model);
        DropFragments();
        foreach (IReadOnlyList<Parameter> part in Cut(parameters, options.Fragments)) fragments.Add(new ParameterFragment(group, part, options.Compression, fragments.Count));
        trainable = parameters;
        this.model = model;
    }

    /// <inheritdoc/>
    /// <remarks>Each rank divides by the weight of its own samples, as its steps are its own.</remarks>
    protected internal override bool TakesLossSums => true;

    /// <inheritdoc/>
    protected internal override StepOutcome ComputeGradients(StepBatch batch)
    {
        ArgumentNullException.ThrowIfNull(batch);
        stopRequested = batch.StopRequested;
        if (batch.LocalSize > 0) last = batch.Outcome(batch.RunBackward((double)batch.GlobalSize / batch.LocalSize, static (loss, _) => loss.backward()));
        return last with { Stop = stopAgreed };
    }

    /// <inheritdoc/>
    protected internal override void UpdateParameters(optim.Optimizer optimizer)
    {
        base.UpdateParameters(optimizer);
        steps++;
        foreach (ParameterFragment fragment in fragments) fragment.HasStepped = true;
        bool synchronous = steps <= options.SynchronousSteps;
        Meet([.. fragments.Where((_, index) => synchronous || IsDue(index))], synchronous);
    }

    /// <inheritdoc/>
    protected internal override void Complete()
    {
        // A second meeting after the same step would be an outer step of momentum alone.
        Meet([.. fragments.Where(static fragment => fragment.HasStepped)], steps <= options.SynchronousSteps);
        stopRequested = stopAgreed = false;
    }

    /// <inheritdoc/>
    public override void SynchronizeBuffers() => Replicas.Broadcast(group, model!.buffers());

    /// <inheritdoc/>
    protected internal override void Sum(Span<double> values) => group.AllReduce(values);

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        if (disposing) DropFragments();
        base.Dispose(disposing);
    }

    private void DropFragments()
    {
        foreach (ParameterFragment fragment in fragments) fragment.Dispose();
        fragments.Clear();
    }

    /// <summary>Fragments meet at equal distances, the last one at the end of each H steps.</summary>
    private bool IsDue(int fragment) => steps % options.LocalSteps == (long)(fragment + 1) * options.LocalSteps / fragments.Count % options.LocalSteps;

    private void Meet(List<ParameterFragment> those, bool average)
    {
        long start = Stopwatch.GetTimestamp();
        foreach (ParameterFragment fragment in those)
        {
            stopAgreed |= fragment.Meet(average ? 1 : options.OuterLearningRate, average ? 0 : options.OuterMomentum, stopRequested);
        }

        CommunicationTime += Stopwatch.GetElapsedTime(start);
    }

    /// <summary>Neighbouring parameters, in parts of about the same size; fewer parts when there are not enough parameters.</summary>
    private static IEnumerable<IReadOnlyList<Parameter>> Cut(Parameter[] parameters, int parts)
    {
        double total = parameters.Sum(static parameter => parameter.numel());
        long before = 0;
        return parameters
            .Select(parameter =>
            {
                double middle = before + (parameter.numel() / 2.0);
                before += parameter.numel();
                return (parameter, part: (int)(middle * parts / total));
            })
            .ToArray()
            .GroupBy(static entry => entry.part, static entry => entry.parameter)
            .Select(static part => (IReadOnlyList<Parameter>)[.. part]);
    }
}

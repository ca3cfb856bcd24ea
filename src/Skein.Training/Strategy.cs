using Skein.Collectives;
using Skein.Training.Data;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training;

/// <summary>
/// How one model is trained by several ranks: the line of a program that changes when it is distributed in another
/// way. The <see cref="Trainer"/> calls each member on the rank's one training thread, in the same order on every rank.
/// </summary>
public abstract class Strategy : IDisposable
{
    /// <summary>This rank's place among those that share the global batch, from 0. Ranks that divide a model have the same.</summary>
    public abstract int Rank { get; }

    /// <summary>The number of ranks, or of groups of ranks that divide a model, that share the global batch.</summary>
    public abstract int WorldSize { get; }

    /// <summary>How long the training thread has waited for other ranks since the strategy was made.</summary>
    public TimeSpan CommunicationTime { get; protected set; }

    /// <summary>
    /// The groups whose ranks train together from the first step on, and have to agree on what they do; none where ranks come and go.
    /// </summary>
    internal virtual IEnumerable<ProcessGroup> Peers => [];

    /// <summary>
    /// Whether this is the one rank of all that is to print and to write files: <see cref="Rank"/> 0 and, where ranks divide a model, the
    /// first of them.
    /// </summary>
    public virtual bool IsFirst => Rank == 0;

    /// <summary>
    /// Makes the ranks' models one: called before the first step. A later call with the same model, as at the beginning of each fit, takes
    /// in what has changed since: which parameters are trained. Every rank calls it.
    /// </summary>
    public abstract void Attach(nn.Module model);

    /// <summary>
    /// Whether this rank's optimizer is over other parameters than the model's own: then the <see cref="Trainer"/> has to make it,
    /// from <see cref="OptimizedParameters"/>.
    /// </summary>
    protected internal virtual bool DividesParameters => false;

    /// <summary>
    /// Whether a forward pass needs all ranks of <see cref="WorldSize"/>: one that has no samples in an evaluation then takes part
    /// with one that does not count.
    /// </summary>
    protected internal virtual bool ForwardIsCollective => false;

    /// <summary>The parameters that this rank's optimizer is to update, each once; after <see cref="Attach"/>.</summary>
    public virtual IReadOnlyList<Parameter> OptimizedParameters(nn.Module model)
    {
        ArgumentNullException.ThrowIfNull(model);
        return ModelParameters.Trainable(model);
    }

    /// <summary>What computes the loss of the model's outputs once it is attached: where ranks hold parts of the outputs, another function with the same value.</summary>
    protected internal virtual Func<Tensor, Tensor, Tensor> LossOf(Func<Tensor, Tensor, Tensor> loss) => loss;

    /// <summary>The same for a loss that tells its weight.</summary>
    protected internal virtual Func<Tensor, Tensor, LossSum> LossOf(Func<Tensor, Tensor, LossSum> loss) => loss;

    /// <summary>
    /// Whether <see cref="ComputeGradients"/> tells the weight of the loss (<see cref="StepOutcome.Weight"/>); without, a
    /// <see cref="Trainer"/> takes no <see cref="LossSum"/>.
    /// </summary>
    protected internal virtual bool TakesLossSums => false;

    /// <summary>Runs the attached model; null where another rank has the output.</summary>
    protected internal virtual Tensor? Predict(nn.Module<Tensor, Tensor> model, Tensor features)
    {
        ArgumentNullException.ThrowIfNull(model);
        return model.call(features);
    }

    /// <summary>At which step of the next fit this rank begins, from 0: a later one where it comes into a fit that is under way. Known once a model is attached.</summary>
    protected internal virtual long FirstStep => 0;

    /// <summary>The steps of an epoch, and which of its samples this rank takes in each. By default every rank takes part in every global batch.</summary>
    /// <param name="sampler">Set to the epoch.</param>
    protected internal virtual IEnumerable<SampleRange> Samples(DistributedSampler sampler)
    {
        ArgumentNullException.ThrowIfNull(sampler);
        for (int i = 0; i < sampler.BatchesPerEpoch; i++)
        {
            (int start, int count) = sampler.LocalSlice(i);
            yield return new SampleRange(start, count, sampler.GlobalBatchSize(i));
        }
    }

    /// <summary>
    /// Runs forward and backward over this rank's share of a global batch, and leaves the gradient of the mean loss
    /// over the whole global batch in the parameters.
    /// </summary>
    protected internal abstract StepOutcome ComputeGradients(StepBatch batch);

    /// <summary>Scales the gradients so that their norm, over all parameters of the whole model, is at most <paramref name="maxNorm"/>.</summary>
    /// <param name="parameters">Those of <see cref="OptimizedParameters"/>.</param>
    /// <param name="maxNorm">Above 0.</param>
    /// <returns>The norm before.</returns>
    protected internal virtual double ClipGradients(IReadOnlyList<Parameter> parameters, double maxNorm) =>
        nn.utils.clip_grad_norm_(parameters, maxNorm);

    /// <summary>Scales the gradients of <paramref name="parameters"/> down, if the norm of all of them, <paramref name="norm"/>, is above <paramref name="maxNorm"/>; as torch's clip_grad_norm_.</summary>
    private protected static void ScaleGradients(IReadOnlyList<Parameter> parameters, double norm, double maxNorm)
    {
        double scale = maxNorm / (norm + 1e-6);
        if (scale >= 1) return;
        using var noGradient = no_grad();
        foreach (Parameter parameter in parameters)
        {
            using Tensor? gradient = parameter.grad;
            gradient?.mul_(scale);
        }
    }

    /// <summary>Applies the gradients to the parameters.</summary>
    protected internal virtual void UpdateParameters(optim.Optimizer optimizer)
    {
        ArgumentNullException.ThrowIfNull(optimizer);
        optimizer.step();
    }

    /// <summary>After the last step of a fit: the model takes its final parameters, the same on every rank.</summary>
    protected internal virtual void Complete() { }

    /// <summary>
    /// Makes the attached model's buffers, which the optimizer does not touch (running statistics), the same on all ranks: those of rank 0.
    /// Collective. A <see cref="Trainer"/> does so at the end of each fit and before an evaluation; in a loop of one's own, call it before
    /// the model is measured or saved.
    /// </summary>
    public virtual void SynchronizeBuffers() { }

    /// <summary>
    /// Replaces each value by its sum over the global batch's parts: ranks of one part that hold the same model count once, and
    /// those without the output (<see cref="Predict"/>) bring zeros.
    /// </summary>
    protected internal abstract void Sum(Span<double> values);

    /// <summary>
    /// The whole model's parameters by name, in the order of <c>state_dict</c>, each valid until the next one is asked for.
    /// Collective: every rank goes through all of them, and gets the same.
    /// </summary>
    public virtual IEnumerable<(string Name, Tensor Value)> FullParameters(nn.Module model)
    {
        ArgumentNullException.ThrowIfNull(model);
        return model.named_parameters().Select(static entry => (entry.name, (Tensor)entry.parameter));
    }

    /// <summary>
    /// <see cref="FullParameters"/>, and after them the model's buffers that are part of its state, such as running statistics: what
    /// <see cref="Checkpointing.SafeTensors"/> is to write. Collective.
    /// </summary>
    public IEnumerable<(string Name, Tensor Value)> FullState(nn.Module model)
    {
        ArgumentNullException.ThrowIfNull(model);
        return FullParameters(model).Concat(FullBuffers(model));
    }

    private protected virtual IEnumerable<(string Name, Tensor Value)> FullBuffers(nn.Module model) => model.named_buffers();

    /// <summary>Every rank's <paramref name="values"/>, in order of rank, without ranks that were lost where the strategy outlives them. All ranks call it, with equally many.</summary>
    public virtual double[][] Gather(ReadOnlySpan<double> values)
    {
        var all = new double[WorldSize * values.Length];
        values.CopyTo(all.AsSpan(Rank * values.Length));
        Sum(all);
        return [.. all.Chunk(values.Length)];
    }

    /// <summary>Frees the strategy's memory. The process group, if any, stays open.</summary>
    public void Dispose()
    {
        Dispose(true);
        GC.SuppressFinalize(this);
    }

    /// <inheritdoc cref="Dispose()"/>
    protected virtual void Dispose(bool disposing) { }
}

/// <summary>One rank's share of a step.</summary>
/// <param name="Start">Where it begins in the epoch's order.</param>
/// <param name="Count">Its number of samples; may be 0.</param>
/// <param name="GlobalBatchSize">The number of samples in the step, over all ranks.</param>
public readonly record struct SampleRange(int Start, int Count, int GlobalBatchSize);

/// <summary>What a step found, the same on every rank.</summary>
/// <param name="Loss">
/// The mean loss over the global batch, before the update; with a <see cref="LossSum"/>, the sum divided by the number of samples.
/// </param>
/// <param name="Stop">Whether any rank asked to stop.</param>
/// <param name="Weight">The weight of the global batch's loss, divided by its number of samples. 1 for a mean over samples.</param>
public readonly record struct StepOutcome(float Loss, bool Stop, float Weight = 1);

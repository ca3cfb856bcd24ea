using Skein.Training.Gradients;
using Skein.Training.Optimizers;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training;

/// <summary>
/// A strategy whose ranks each run the whole of the module that they are given, on samples of their own, and agree on the
/// gradients afterwards. <c>PipelineParallel</c> uses one for the dimension that shares out the batch.
/// </summary>
/// <remarks>
/// For a model in half precision the optimizer works on copies in single precision, the master weights (Micikevicius et al.
/// 2018, section 3.1), if the <see cref="Trainer"/> makes it.
/// </remarks>
public abstract class ReplicaStrategy : Strategy
{
    private readonly GradientSums sums = new();
    private MasterWeights? masters;

    private protected ReplicaStrategy() { }

    /// <summary>What a rank multiplies its part of the mean loss over the global batch by, so that agreeing leaves the gradient of the mean.</summary>
    internal abstract double LossScale { get; }

    /// <inheritdoc/>
    protected internal override bool TakesLossSums => true;

    /// <summary>
    /// Asked by a rank that may have to leave out a step: whether all ranks that hold parts of the same copy of the model can take it. Collective
    /// over these. Set by the strategies around this one.
    /// </summary>
    internal Func<bool, bool> CanAllStep { get; set; } = static own => own;

    /// <summary>
    /// Whether the optimizer updates pieces of parameters, which have the gradients once a step is agreed on; else it updates a parameter for each
    /// one that is trained, in their order.
    /// </summary>
    internal virtual bool OptimizesPieces => false;

    /// <summary><see cref="Trainable"/>, for the strategies around this one.</summary>
    internal IReadOnlyList<Parameter> TrainedParameters => Trainable;

    /// <summary>The parameters that require a gradient, of the attached module, each once.</summary>
    private protected abstract IReadOnlyList<Parameter> Trainable { get; }

    /// <summary>
    /// Puts modules of its own into the model where this strategy has any. For who wants to change what is then there before
    /// <see cref="Strategy.Attach"/>, which else does it.
    /// </summary>
    internal virtual void ReplaceModules(nn.Module model) { }

    /// <summary>The passes that this rank makes of a batch: as many as the others where they need it in each.</summary>
    internal int PassesOf(StepBatch batch) => ForwardIsCollective ? batch.MostMicroBatches(WorldSize) : batch.MicroBatches;

    /// <summary>
    /// Until the result is disposed, backward passes only add to this rank's own gradients: for all but the last micro-batch of a
    /// step.
    /// </summary>
    public abstract IDisposable NoSync();

    /// <summary>Leaves the gradient of the mean loss in the parameters, once this rank's backward passes are done.</summary>
    /// <param name="own"><see cref="LossScale"/> times this rank's part of the mean loss over the global batch, and of its weight.</param>
    internal StepOutcome Synchronize(StepOutcome own)
    {
        StepOutcome outcome = Agree(own);
        masters?.TakeGradients();
        return outcome;
    }

    /// <summary>The squared norm of the gradient over all ranks, each parameter's part times its weight. Collective.</summary>
    internal virtual double SquaredGradientNorm(Func<Parameter, double> weight)
    {
        using var scope = NewDisposeScope();
        double sum = 0;
        foreach (Parameter parameter in Trainable)
        {
            if ((masters?.Of(parameter) ?? parameter).grad is { } gradient) sum += weight(parameter) * Math.Pow(gradient.norm().ToDouble(), 2);
        }

        return sum;
    }

    private protected abstract StepOutcome Agree(StepOutcome own);

    /// <inheritdoc/>
    protected internal override StepOutcome ComputeGradients(StepBatch batch)
    {
        ArgumentNullException.ThrowIfNull(batch);
        BeginStep();
        return Synchronize(batch.Outcome(batch.RunBackward(LossScale, Backward)));
    }

    /// <inheritdoc/>
    public override IReadOnlyList<Parameter> OptimizedParameters(nn.Module model)
    {
        if (masters is null && Trainable.Any(MasterWeights.IsNeededFor)) masters = new MasterWeights();
        return masters?.Of(Trainable) ?? Trainable;
    }

    /// <inheritdoc/>
    protected internal override void UpdateParameters(optim.Optimizer optimizer)
    {
        base.UpdateParameters(optimizer);
        masters?.Give();
    }

    /// <summary>Told by a trainer before the only backward pass of a step that is not in <see cref="NoSync"/>: gradients may be sent during it.</summary>
    internal virtual void BeginLastBackward() { }

    /// <summary>Forgets what a step that failed has left.</summary>
    private protected void BeginStep() => sums.Clear();

    /// <summary>Runs the backward pass of one micro-batch; all but the last one of a step add to this rank's gradients only.</summary>
    private protected void Backward(Tensor loss, bool last)
    {
        if (last && !sums.HasAny)
        {
            BeginLastBackward();
            loss.backward();
            return;
        }

        using (NoSync())
        {
            loss.backward();
            sums.Take(Trainable);
        }

        if (last) sums.Give();
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        if (disposing)
        {
            sums.Dispose();
            masters?.Dispose();
        }

        base.Dispose(disposing);
    }
}

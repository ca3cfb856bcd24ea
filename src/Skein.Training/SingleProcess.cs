using static TorchSharp.torch;

namespace Skein.Training;

/// <summary>Training in one process, with nobody to talk to.</summary>
public sealed class SingleProcess : Strategy
{
    /// <inheritdoc/>
    public override int Rank => 0;

    /// <inheritdoc/>
    public override int WorldSize => 1;

    /// <inheritdoc/>
    public override void Attach(nn.Module model)
    {
        ArgumentNullException.ThrowIfNull(model);
        if (!model.parameters().Any(static parameter => parameter.requires_grad)) throw new ArgumentException("the model has no parameter that requires a gradient", nameof(model));
    }

    /// <inheritdoc/>
    protected internal override StepOutcome ComputeGradients(StepBatch batch) =>
        new(batch.RunBackward(1, static (loss, _) => loss.backward()), batch.StopRequested);

    /// <inheritdoc/>
    protected internal override void Sum(Span<double> values) { }
}

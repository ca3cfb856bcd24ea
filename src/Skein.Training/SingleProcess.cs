using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training;

/// <summary>Training in one process, with nobody to talk to.</summary>
public sealed class SingleProcess : ReplicaStrategy
{
    private Parameter[] trainable = [];

    /// <inheritdoc/>
    public override int Rank => 0;

    /// <inheritdoc/>
    public override int WorldSize => 1;

    /// <inheritdoc/>
    public override void Attach(nn.Module model)
    {
        ArgumentNullException.ThrowIfNull(model);
        trainable = ModelParameters.Trainable(model);
    }

    internal override double LossScale => 1;

    private protected override IReadOnlyList<Parameter> Trainable => trainable;

    /// <inheritdoc/>
    public override IDisposable NoSync() => new Nothing();

    private protected override StepOutcome Agree(StepOutcome own) => own;

    /// <inheritdoc/>
    protected internal override void Sum(Span<double> values) { }

    private sealed class Nothing : IDisposable
    {
        public void Dispose() { }
    }
}

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
        trainable = [.. model.parameters().Where(static parameter => parameter.requires_grad)];
        if (trainable.Length == 0) throw new ArgumentException("the model has no parameter that requires a gradient", nameof(model));
    }

    internal override double LossScale => 1;

    private protected override IReadOnlyList<Parameter> Trainable => trainable;

    /// <inheritdoc/>
    public override IDisposable NoSync() => new Nothing();

    private protected override StepOutcome Agree(float loss, bool stop) => new(loss, stop);

    /// <inheritdoc/>
    protected internal override void Sum(Span<double> values) { }

    private sealed class Nothing : IDisposable
    {
        public void Dispose() { }
    }
}

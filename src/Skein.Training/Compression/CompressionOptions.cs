namespace Skein.Training.Compression;

/// <summary>How gradients are compressed. Immutable; the same on every rank.</summary>
public sealed record CompressionOptions
{
    /// <summary>Which parameters are compressed how.</summary>
    public required CompressionRules Rules { get; init; }

    /// <summary>
    /// Momentum that each rank applies to its gradient before it is compressed, from 0 to below 1 (Lin et al. 2018,
    /// equation 4): with sparse methods an optimizer's own momentum comes too late for values that wait. Give the optimizer
    /// none then. Default 0.
    /// </summary>
    public double Momentum { get; init; }

    /// <summary>
    /// The most norm that all ranks' gradients of a bucket may have together, above 0; each rank scales its own down to this
    /// divided by the root of the world size before it adds what it kept (Lin et al. 2018, section 3.2). Null: not clipped.
    /// </summary>
    public double? ClipNorm { get; init; }

    /// <summary>Over how many steps top-k's ratio falls to its final value, from a quarter, 0 or more. Default 0.</summary>
    public int WarmupSteps { get; init; }

    /// <summary>Seeds random choices.</summary>
    public long Seed { get; init; }

    /// <summary>Checks that the numbers are in range.</summary>
    /// <exception cref="ArgumentException">One is not; says which, its value, and the range.</exception>
    public void Validate()
    {
        if (Momentum is not (>= 0 and < 1)) throw new ArgumentException($"the momentum before compression is {Momentum}: give a number from 0 to below 1");
        if (ClipNorm is { } norm && (!(norm > 0) || !double.IsFinite(norm))) throw new ArgumentException($"the norm to which gradients are clipped before compression is {norm}: give a number above 0");
        if (WarmupSteps < 0) throw new ArgumentException($"the number of compression warm-up steps is {WarmupSteps}: give a whole number from 0");
    }
}

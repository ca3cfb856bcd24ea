namespace Skein.Collectives;

/// <summary>How the contributions of the ranks are combined, element by element.</summary>
/// <remarks>
/// <see cref="Half"/> and <see cref="BFloat16"/> are combined in single precision and rounded once per step. Sums of
/// <see cref="Half"/> may overflow, but averages do not: they are off by at most a unit in the last place of the largest
/// contribution for each step, one fewer than there are ranks.
/// Integers wrap around on overflow, and their average truncates towards zero.
/// </remarks>
public enum ReduceOperation : byte
{
    /// <summary>The sum over the ranks.</summary>
    Sum,

    /// <summary>The sum over the ranks divided by the world size.</summary>
    Average,

    /// <summary>The smallest value; NaN if any contribution is NaN.</summary>
    Min,

    /// <summary>The largest value; NaN if any contribution is NaN.</summary>
    Max,

    /// <summary>The product over the ranks.</summary>
    Product,
}

namespace Skein.ParameterServer;

/// <summary>
/// An embedding table, whose rows are spread over the servers by <see cref="SparseRows.ServerOf"/> and stored only from
/// their first update on.
/// </summary>
/// <param name="Name">Its name, which no other table has.</param>
/// <param name="Rows">The number of rows, at least 1.</param>
/// <param name="Dimension">The elements of a row, from 1 to 65,536.</param>
/// <param name="InitialDeviation">The standard deviation of the normal distribution that rows start from; finite, at least 0.</param>
/// <param name="Seed">What makes two tables of one name start differently.</param>
/// <exception cref="ArgumentOutOfRangeException">A number is out of its range.</exception>
public sealed record TableSpec(string Name, long Rows, int Dimension, float InitialDeviation, long Seed)
{
    private const int LargestDimension = 64 << 10;

    /// <summary>The number of rows, at least 1.</summary>
    public long Rows { get; } = Rows >= 1 ? Rows : throw new ArgumentOutOfRangeException(nameof(Rows), Rows, $"table '{Name}' must have at least 1 row");

    /// <summary>The elements of a row, from 1 to 65,536.</summary>
    public int Dimension { get; } = Dimension is >= 1 and <= LargestDimension
        ? Dimension
        : throw new ArgumentOutOfRangeException(nameof(Dimension), Dimension, $"table '{Name}' must have from 1 to {LargestDimension} elements in a row");

    /// <summary>The standard deviation of the normal distribution that rows start from; finite, at least 0.</summary>
    public float InitialDeviation { get; } = float.IsFinite(InitialDeviation) && InitialDeviation >= 0
        ? InitialDeviation
        : throw new ArgumentOutOfRangeException(nameof(InitialDeviation), InitialDeviation, $"table '{Name}' must start from a finite deviation, at least 0");
}

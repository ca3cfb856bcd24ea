namespace Skein.Training.Compression;

/// <summary>Where a parameter lies in a flat vector, seen as a matrix: its first dimension by the product of the others; a vector is one row.</summary>
internal readonly record struct ParameterPlace(int Offset, int Rows, int Columns)
{
    public static ParameterPlace Of(long offset, ReadOnlySpan<long> shape)
    {
        long rows = shape.Length < 2 ? 1 : shape[0];
        long columns = 1;
        foreach (long size in shape[(shape.Length < 2 ? 0 : 1)..]) columns *= size;
        return new ParameterPlace(checked((int)offset), checked((int)rows), checked((int)columns));
    }
}

namespace Skein.Collectives;

/// <summary>Cuts a length into near-equal parts: where it does not divide, the first parts get one element more.</summary>
internal static class Partition
{
    public static long Start(long length, int parts, int index)
    {
        (long quotient, long remainder) = Math.DivRem(length, parts);
        return (index * quotient) + Math.Min(index, remainder);
    }

    public static long Length(long length, int parts, int index) =>
        (length / parts) + (index < length % parts ? 1 : 0);
}

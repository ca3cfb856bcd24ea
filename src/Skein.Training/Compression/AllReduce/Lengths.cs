namespace Skein.Training.Compression.AllReduce;

/// <summary>Payload lengths that other ranks announce.</summary>
internal static class Lengths
{
    /// <summary>Their sum.</summary>
    /// <exception cref="InvalidDataException">One is out of range; names the rank.</exception>
    public static int Check(ReadOnlySpan<int> lengths, int most)
    {
        for (int rank = 0; rank < lengths.Length; rank++)
        {
            if (lengths[rank] < 0 || lengths[rank] > most) throw new InvalidDataException($"rank {rank} announces a compressed payload of {lengths[rank]} bytes; at most {most} are possible");
        }

        long total = 0;
        foreach (int length in lengths) total += length;
        return total <= Array.MaxLength ? (int)total : throw new InvalidDataException($"the ranks' compressed payloads have {total} bytes together; at most {Array.MaxLength} are possible: use smaller buckets");
    }
}

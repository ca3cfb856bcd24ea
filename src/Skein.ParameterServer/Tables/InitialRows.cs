namespace Skein.ParameterServer;

/// <summary>
/// The rows of a table before any update: normal(0, deviation), and a function of seed, table and id only, so that no row
/// needs memory to be the same whenever and wherever it is pulled. Thread-safe.
/// </summary>
/// <remarks>A counter-based generator (Salmon et al. 2011) with SplitMix64's mixing, and Box and Muller 1958.</remarks>
internal sealed class InitialRows(TableSpec table)
{
    private readonly ulong key = StableHash.Mix(StableHash.Of(table.Name) ^ StableHash.Mix((ulong)table.Seed));

    public void Fill(long id, Span<float> row)
    {
        if (table.InitialDeviation == 0)
        {
            row.Clear();
            return;
        }

        ulong counter = StableHash.Mix(key ^ (ulong)id);
        for (int i = 0; i < row.Length; i += 2)
        {
            ulong random = StableHash.Mix(counter + (ulong)i);
            // Two uniform numbers of 32 bits; the first, of which the logarithm is taken, is never 0.
            double radius = table.InitialDeviation * Math.Sqrt(-2 * Math.Log(((random >> 32) + 0.5) / (1L << 32)));
            (double sine, double cosine) = Math.SinCos(2 * Math.PI * (uint)random / (1L << 32));
            row[i] = (float)(radius * cosine);
            if (i + 1 < row.Length) row[i + 1] = (float)(radius * sine);
        }
    }
}

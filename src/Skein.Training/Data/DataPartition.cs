using System.Globalization;

namespace Skein.Training.Data;

/// <summary>
/// How data are divided among ranks that each keep a share of their own: labels by a Dirichlet distribution, the usual
/// model of heterogeneous data. Immutable.
/// </summary>
/// <remarks>
/// For each class, the ranks' shares of its samples are drawn from Dir(α, …, α) (Yurochkin et al. 2019, as Hsu et al. 2019
/// measure the effects of): α of 0.1 gives each rank few classes, 100 about the same mix to all. Every sample goes to
/// exactly one rank, and no rank goes without. Shares differ in size, and all ranks take the same number of steps with
/// the same number of samples: a rank goes through its share again and again, in a new order each time, so that samples of
/// a small share are seen more often than those of a large one.
/// </remarks>
public sealed record DataPartition
{
    private const string Prefix = "dirichlet:";

    /// <summary>A division with this concentration, above 0.</summary>
    public DataPartition(double alpha)
    {
        if (!(alpha > 0) || !double.IsFinite(alpha)) throw new ArgumentOutOfRangeException(nameof(alpha), alpha, "the concentration is a number above 0");
        Alpha = alpha;
    }

    /// <summary>The concentration α.</summary>
    public double Alpha { get; }

    /// <summary>Reads <c>iid</c>, where every rank takes its part of each global batch of the whole (null), or <c>dirichlet:ALPHA</c>.</summary>
    /// <exception cref="FormatException">It is neither; names the value and the choices.</exception>
    public static DataPartition? Parse(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        if (text == "iid") return null;
        return text.StartsWith(Prefix, StringComparison.Ordinal)
            && double.TryParse(text.AsSpan(Prefix.Length), NumberStyles.Float, CultureInfo.InvariantCulture, out double alpha)
            && alpha > 0 && double.IsFinite(alpha)
            ? new DataPartition(alpha)
            : throw new FormatException($"unknown partition '{text}': give iid, or dirichlet:ALPHA with a number above 0");
    }

    /// <summary>As <see cref="Parse"/> reads it.</summary>
    public override string ToString() => string.Create(CultureInfo.InvariantCulture, $"{Prefix}{Alpha}");

    /// <summary>Each rank's samples, in ascending order.</summary>
    /// <param name="labels">The class of each sample.</param>
    /// <param name="ranks">The number of ranks, from 1 to the number of samples.</param>
    /// <param name="seed">The same seed gives the same division.</param>
    public IReadOnlyList<IReadOnlyList<int>> Divide(IReadOnlyList<long> labels, int ranks, long seed)
    {
        ArgumentNullException.ThrowIfNull(labels);
        ArgumentOutOfRangeException.ThrowIfLessThan(ranks, 1);
        if (labels.Count < ranks) throw new ArgumentException($"{labels.Count} samples cannot be divided among {ranks} ranks: each needs one", nameof(labels));
        List<int>[] shares = [.. Enumerable.Range(0, ranks).Select(static _ => new List<int>())];
        foreach (IGrouping<long, int> group in Enumerable.Range(0, labels.Count).GroupBy(sample => labels[sample]).OrderBy(static group => group.Key))
        {
            var random = new SplitMix64(seed, unchecked(group.Key ^ 0x5D1A));
            int[] samples = Shuffled([.. group], ref random);
            double[] shareOf = Dirichlet.Sample(Alpha, ranks, ref random);
            double cumulative = 0;
            int given = 0;
            for (int rank = 0; rank < ranks; rank++)
            {
                cumulative += shareOf[rank];
                int end = rank == ranks - 1 ? samples.Length : Math.Clamp((int)Math.Round(cumulative * samples.Length), given, samples.Length);
                shares[rank].AddRange(samples[given..end]);
                given = end;
            }
        }

        foreach (List<int> empty in shares.Where(static share => share.Count == 0))
        {
            List<int> largest = shares.MaxBy(static share => share.Count)!;
            empty.Add(largest[^1]);
            largest.RemoveAt(largest.Count - 1);
        }

        foreach (List<int> share in shares) share.Sort();
        return shares;
    }

    /// <summary>Fisher-Yates, in place.</summary>
    internal static int[] Shuffled(int[] values, ref SplitMix64 random)
    {
        for (int i = values.Length - 1; i > 0; i--)
        {
            int j = random.Next(i + 1);
            (values[i], values[j]) = (values[j], values[i]);
        }

        return values;
    }
}

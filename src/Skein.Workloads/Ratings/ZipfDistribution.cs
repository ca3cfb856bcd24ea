using Skein.Training.Data;

namespace Skein.Workloads.Ratings;

/// <summary>
/// Zipf's distribution over 1..n: k has a probability proportional to k to the power of -exponent. A sample takes constant time and no
/// table, by rejection-inversion (Hörmann and Derflinger 1996, "Rejection-inversion to generate variates from monotone discrete
/// distributions"). Immutable; thread-safe.
/// </summary>
internal sealed class ZipfDistribution
{
    private readonly long count;
    private readonly double exponent;
    private readonly double first;
    private readonly double last;
    private readonly double alwaysAccepted;

    /// <param name="count">n, 1 or more.</param>
    /// <param name="exponent">0 or more; 0 makes all alike.</param>
    internal ZipfDistribution(long count, double exponent)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(count, 1);
        if (!(exponent >= 0 && double.IsFinite(exponent))) throw new ArgumentOutOfRangeException(nameof(exponent), exponent, "an exponent is 0 or more");
        this.count = count;
        // So near to 1 the general integral would lose its digits; the difference between the distributions is below what sampling shows.
        this.exponent = Math.Abs(exponent - 1) < 1e-6 ? 1 : exponent;
        first = Integral(1.5) - 1;
        last = Integral(count + 0.5);
        alwaysAccepted = 2 - InverseIntegral(Integral(2.5) - Weight(2));
    }

    internal long Sample(ref SplitMix64 random)
    {
        while (true)
        {
            double area = last + (random.NextDouble() * (first - last));
            double x = InverseIntegral(area);
            long k = Math.Clamp((long)(x + 0.5), 1, count);
            if (k - x <= alwaysAccepted || area >= Integral(k + 0.5) - Weight(k)) return k;
        }
    }

    private double Weight(double x) => Math.Pow(x, -exponent);

    // Of the weight, up to a constant.
    private double Integral(double x) => exponent == 1 ? Math.Log(x) : Math.Pow(x, 1 - exponent) / (1 - exponent);

    private double InverseIntegral(double area) =>
        exponent == 1 ? Math.Exp(area) : Math.Pow(area * (1 - exponent), 1 / (1 - exponent));
}

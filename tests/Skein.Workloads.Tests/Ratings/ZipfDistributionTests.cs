using Skein.Training.Data;
using Skein.Workloads.Ratings;

namespace Skein.Workloads.Tests.Ratings;

public sealed class ZipfDistributionTests
{
    [Theory]
    [InlineData(1, 1.0)]
    [InlineData(20, 0.0)]
    [InlineData(20, 0.5)]
    [InlineData(20, 1.0)]
    [InlineData(20, 1.0000000001)]
    [InlineData(20, 1.001)]
    [InlineData(20, 2.5)]
    public void Frequencies_are_the_probabilities(int count, double exponent)
    {
        const int Samples = 400_000;
        double[] weights = [.. Enumerable.Range(1, count).Select(k => Math.Pow(k, -exponent))];
        int[] seen = Histogram(count, exponent, Samples, k => (int)k - 1, count);
        for (int k = 0; k < count; k++) AssertFrequency(weights[k] / weights.Sum(), seen[k], Samples);
    }

    [Theory]
    [InlineData(0.8)]
    [InlineData(1.0)]
    [InlineData(1.2)]
    public void Ten_million_have_the_probabilities_too(double exponent)
    {
        const int Count = 10_000_000, Samples = 400_000;
        var mass = new double[8];
        for (int k = 1; k <= Count; k++) mass[Decade(k)] += Math.Pow(k, -exponent);
        int[] seen = Histogram(Count, exponent, Samples, Decade, mass.Length);
        for (int i = 0; i < mass.Length; i++) AssertFrequency(mass[i] / mass.Sum(), seen[i], Samples);

        static int Decade(long k) => (int)Math.Log10(k + 0.5);
    }

    [Fact]
    public void Senseless_arguments_are_refused()
    {
        Assert.Throws<ArgumentOutOfRangeException>(() => new ZipfDistribution(0, 1));
        Assert.Throws<ArgumentOutOfRangeException>(() => new ZipfDistribution(10, -0.1));
        Assert.Throws<ArgumentOutOfRangeException>(() => new ZipfDistribution(10, double.NaN));
    }

    private static int[] Histogram(long count, double exponent, int samples, Func<long, int> bin, int bins)
    {
        var zipf = new ZipfDistribution(count, exponent);
        var random = new SplitMix64(5, 0);
        var seen = new int[bins];
        for (int i = 0; i < samples; i++) seen[bin(zipf.Sample(ref random))]++;
        return seen;
    }

    // Within five standard deviations of a binomial count.
    private static void AssertFrequency(double probability, int seen, int samples)
    {
        double expected = probability * samples;
        Assert.InRange(seen - expected, -1 - (5 * Math.Sqrt(expected)), 1 + (5 * Math.Sqrt(expected)));
    }
}

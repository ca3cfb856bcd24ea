namespace Skein.Training.Data;

/// <summary>Draws from the symmetric Dirichlet distribution.</summary>
internal static class Dirichlet
{
    /// <summary><paramref name="count"/> numbers from 0 to 1 with the sum 1.</summary>
    public static double[] Sample(double alpha, int count, ref SplitMix64 random)
    {
        // As logarithms: for a small α, gamma variates underflow.
        var logs = new double[count];
        for (int i = 0; i < count; i++) logs[i] = LogGamma(alpha, ref random);
        double largest = logs.Max();
        double[] values = [.. logs.Select(log => Math.Exp(log - largest))];
        double sum = values.Sum();
        return [.. values.Select(value => value / sum)];
    }

    /// <summary>The logarithm of a gamma variate (Marsaglia and Tsang 2000; for a shape below 1, section 6).</summary>
    private static double LogGamma(double shape, ref SplitMix64 random)
    {
        if (shape < 1)
        {
            double boost = Math.Log(1 - random.NextDouble()) / shape;
            return LogGamma(shape + 1, ref random) + boost;
        }

        double d = shape - (1.0 / 3), c = 1 / Math.Sqrt(9 * d);
        while (true)
        {
            double normal = Normal(ref random), v = 1 + (c * normal);
            if (v <= 0) continue;
            v = v * v * v;
            if (Math.Log(1 - random.NextDouble()) < (normal * normal / 2) + d - (d * v) + (d * Math.Log(v))) return Math.Log(d * v);
        }
    }

    /// <summary>Box and Muller 1958.</summary>
    private static double Normal(ref SplitMix64 random) =>
        Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(2 * Math.PI * random.NextDouble());
}

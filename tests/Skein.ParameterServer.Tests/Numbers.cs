namespace Skein.ParameterServer.Tests;

/// <summary>Random numbers with fixed seeds, and what to compare numbers by.</summary>
internal static class Numbers
{
    public static float[] Random(int seed, int length, float scale = 1)
    {
        var random = new Random(seed);
        return [.. Enumerable.Range(0, length).Select(_ => scale * ((2 * random.NextSingle()) - 1))];
    }

    public static void AssertClose(IReadOnlyList<double> expected, ReadOnlySpan<float> actual, double relative = 1e-5, double absolute = 1e-6)
    {
        Assert.Equal(expected.Count, actual.Length);
        for (int i = 0; i < actual.Length; i++)
        {
            double allowed = absolute + (relative * Math.Abs(expected[i]));
            Assert.True(Math.Abs(expected[i] - actual[i]) <= allowed, $"element {i}: {actual[i]} instead of {expected[i]}, allowed difference {allowed}");
        }
    }
}

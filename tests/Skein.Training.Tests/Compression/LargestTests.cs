using Skein.Training.Compression.Codecs;

namespace Skein.Training.Tests.Compression;

public class LargestTests
{
    private const int Count = 40_000;

    [Theory]
    [InlineData("gaussian")]
    [InlineData("heavy tails")]
    [InlineData("rising")]
    [InlineData("falling")]
    [InlineData("large ones at the end")]
    [InlineData("large ones in every 64th place")]
    [InlineData("large ones in every place but the 64th")]
    [InlineData("few differ from zero")]
    [InlineData("few magnitudes")]
    [InlineData("one magnitude")]
    public void They_are_those_that_sorting_finds(string kind)
    {
        var random = new Random(5);
        float[] values = [.. Enumerable.Range(0, Count).Select(i => Value(kind, i, random))];
        foreach (int count in new[] { 1, 17, 300, 5000, Count })
        {
            float[] some = values[^count..];
            foreach (int wanted in new[] { 0, 1, count / 100, count / 10, count / 2, count })
            {
                int[] expected = [.. Enumerable.Range(0, count).Where(i => some[i] != 0).OrderByDescending(i => MathF.Abs(some[i])).ThenBy(static i => i).Take(wanted).Order()];
                using var largest = new Largest(some, wanted);
                Assert.Equal(expected, largest.Indices.ToArray());
                Assert.Equal(expected.Select(i => some[i]), largest.Values.ToArray());
            }
        }
    }

    private static float Value(string kind, int i, Random random)
    {
        float sign = random.Next(2) == 0 ? -1 : 1;
        return sign * kind switch
        {
            "gaussian" => (float)Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())),
            "heavy tails" => (float)Math.Pow(random.NextDouble(), -3),
            "rising" => i,
            "falling" => Count - i,
            "large ones at the end" => random.NextSingle() + (i >= Count - 150 ? 10 : 0),
            "large ones in every 64th place" => random.NextSingle() + (i % 64 == 0 ? 10 : 0),
            "large ones in every place but the 64th" => random.NextSingle() + (i % 64 == 0 ? 0 : 10),
            "few differ from zero" => random.Next(500) == 0 ? random.NextSingle() : 0,
            "few magnitudes" => random.Next(4),
            _ => 2,
        };
    }
}

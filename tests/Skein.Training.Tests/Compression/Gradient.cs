using Skein.Training.Data;

namespace Skein.Training.Tests.Compression;

/// <summary>Made-up gradients: heavy tails, some zeros, magnitudes that differ from block to block.</summary>
internal static class Gradient
{
    public static float[] Of(int length, long seed)
    {
        var random = new SplitMix64(seed, length);
        var values = new float[length];
        for (int i = 0; i < length; i++)
        {
            double uniform = (2 * random.NextDouble()) - 1;
            double scale = Math.Pow(10, (i / 700 % 5) - 3);
            values[i] = i % 13 == 5 ? 0 : (float)(uniform * uniform * uniform * scale);
        }

        return values;
    }
}

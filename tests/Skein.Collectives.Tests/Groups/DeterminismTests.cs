using System.Runtime.InteropServices;
using Skein.TestKit;

namespace Skein.Collectives.Tests.Groups;

/// <summary>Rounding makes the order of adding visible: all ranks, and all runs, have to agree to the last bit.</summary>
public sealed class DeterminismTests
{
    [Theory]
    [MemberData(nameof(CollectiveTests.JobsAndAlgorithms), MemberType = typeof(CollectiveTests))]
    public void All_ranks_and_all_runs_give_the_same_bits(TransportKind transport, int worldSize, AllReduceAlgorithm algorithm)
    {
        byte[] first = Bits(transport, worldSize, algorithm), second = Bits(transport, worldSize, algorithm);
        Assert.Equal(first, second);
    }

    private static byte[] Bits(TransportKind transport, int worldSize, AllReduceAlgorithm algorithm)
    {
        byte[][] results = new byte[worldSize][];
        Ranks.Run(
            worldSize, transport,
            group =>
            {
                List<byte> bits = [];
                foreach (int length in new[] { 1, 1009, 70_001 })
                {
                    Random random = new(length + group.Rank);
                    float[] floats = new float[length];
                    for (int i = 0; i < length; i++) floats[i] = (float)((random.NextDouble() - 0.5) * Math.Pow(10, random.Next(-6, 6)));
                    double[] exact = new double[length], magnitudes = new double[length];
                    for (int rank = 0; rank < worldSize; rank++) Accumulate(exact, magnitudes, length + rank);
                    BFloat16[] brain = [.. floats.Select(value => (BFloat16)value)];

                    group.AllReduce(floats.AsSpan());
                    group.AllReduceAsync(brain.AsMemory(), ReduceOperation.Average).Wait();
                    for (int i = 0; i < length; i++) Assert.Equal(exact[i], floats[i], magnitudes[i] * worldSize * 1.2e-7);
                    bits.AddRange(MemoryMarshal.AsBytes(floats.AsSpan()));
                    bits.AddRange(MemoryMarshal.AsBytes(brain.AsSpan()));
                }

                results[group.Rank] = [.. bits];
            },
            options => options with { Algorithm = algorithm });
        Assert.All(results, result => Assert.Equal(results[0], result));
        return results[0];
    }

    private static void Accumulate(double[] sums, double[] magnitudes, int seed)
    {
        Random random = new(seed);
        for (int i = 0; i < sums.Length; i++)
        {
            float value = (float)((random.NextDouble() - 0.5) * Math.Pow(10, random.Next(-6, 6)));
            sums[i] += value;
            magnitudes[i] += Math.Abs(value);
        }
    }
}

using FsCheck;
using FsCheck.Fluent;
using Skein.Training.Pipeline;
using static TorchSharp.torch;

namespace Skein.Training.Tests.Pipeline;

public class LayerPartitionTests
{
    private static readonly Config Fixed = Config.QuickThrowOnFailure.WithMaxTest(300).WithReplay(20260301, 1);

    private static readonly Gen<(int[] Costs, int Chunks)> Cases =
        from length in Gen.Choose(1, 9)
        from costs in Gen.Choose(0, 20).ArrayOf(length)
        from chunks in Gen.Choose(1, length)
        select (costs, chunks);

    [Fact]
    public void The_largest_chunk_is_as_small_as_in_the_best_of_all_cuts() => Check.One(Fixed, Prop.ForAll(Cases.ToArbitrary(), static @case =>
    {
        double[] costs = [.. @case.Costs.Select(static cost => (double)cost)];
        int[] counts = LayerPartition.Balance(costs, @case.Chunks, new long[costs.Length]);
        return counts.Length == @case.Chunks && counts.All(static count => count > 0) && counts.Sum() == costs.Length
            && Largest(costs, counts) == Cuts(costs.Length, @case.Chunks).Min(other => Largest(costs, other));
    }));

    [Fact]
    public void Memory_moves_the_cut_and_too_little_is_an_error_with_the_numbers()
    {
        Assert.Equal([3, 1], LayerPartition.Balance([1, 1, 1, 3], 2, [1, 1, 1, 1]));
        Assert.Equal([2, 2], LayerPartition.Balance([1, 1, 1, 3], 2, [1, 1, 1, 1], limit: 2));
        var error = Assert.Throws<ArgumentException>(() => LayerPartition.Balance([1, 1, 1, 3], 2, [1, 1, 1, 5], limit: 4));
        Assert.Contains("4 layers of 8 bytes into 2 chunks has at most 4 bytes in each; the largest layer has 5", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Estimated_costs_are_multiplications_and_outputs()
    {
        using var linear = nn.Linear(20, 32);
        using var activation = nn.Tanh();
        using var convolution = nn.Conv2d(3, 8, 5);
        (double[] costs, long[] bytes) = LayerCosts.Estimate([linear, activation], zeros(6, 20), inFlight: 2);
        Assert.Equal([(2.0 * 6 * 20 * 32) + (6 * 32), 6 * 32], costs);
        Assert.Equal([(4L * 4 * 21 * 32) + (2 * 4 * 6 * 32), 2L * 4 * 6 * 32], bytes);
        // Each of 8 · 10 · 10 outputs is a sum of 3 · 5 · 5 products.
        Assert.Equal([(2.0 * 2 * 8 * 100 * 75) + (2 * 8 * 100)], LayerCosts.Estimate([convolution], zeros(2, 3, 14, 14), inFlight: 1).Costs);
    }

    private static double Largest(double[] costs, int[] counts)
    {
        int start = 0;
        double largest = 0;
        foreach (int count in counts)
        {
            largest = Math.Max(largest, costs.Skip(start).Take(count).Sum());
            start += count;
        }

        return largest;
    }

    private static IEnumerable<int[]> Cuts(int layers, int chunks) => chunks == 1
        ? [[layers]]
        : Enumerable.Range(1, layers - chunks + 1).SelectMany(first => Cuts(layers - first, chunks - 1).Select(rest => (int[])[first, .. rest]));
}

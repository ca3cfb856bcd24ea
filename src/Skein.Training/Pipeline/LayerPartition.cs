namespace Skein.Training.Pipeline;

/// <summary>Cuts a list of layers into consecutive chunks.</summary>
internal static class LayerPartition
{
    /// <summary>The numbers of layers of each chunk, such that the largest sum of costs of a chunk is as small as possible; by dynamic programming.</summary>
    /// <param name="costs">Of each layer, at least 0.</param>
    /// <param name="chunks">How many chunks, each of at least one layer.</param>
    /// <param name="bytes">Of each layer.</param>
    /// <param name="limit">The most bytes of a chunk.</param>
    /// <exception cref="ArgumentException">There are more chunks than layers, or no partition keeps the limit.</exception>
    public static int[] Balance(IReadOnlyList<double> costs, int chunks, IReadOnlyList<long> bytes, long limit = long.MaxValue)
    {
        int layers = costs.Count;
        // [chunks used, layers used]: the smallest possible largest cost, and where the last of these chunks begins.
        var best = new double[chunks + 1, layers + 1];
        var begin = new int[chunks + 1, layers + 1];
        for (int used = 0; used <= chunks; used++)
        {
            for (int end = 0; end <= layers; end++) best[used, end] = used == 0 && end == 0 ? 0 : double.PositiveInfinity;
        }

        for (int used = 1; used <= chunks; used++)
        {
            for (int end = used; end <= layers; end++)
            {
                double cost = 0;
                long held = 0;
                for (int first = end - 1; first >= used - 1; first--)
                {
                    cost += costs[first];
                    held += bytes[first];
                    if (held > limit) break;
                    double largest = Math.Max(best[used - 1, first], cost);
                    if (largest >= best[used, end]) continue;
                    best[used, end] = largest;
                    begin[used, end] = first;
                }
            }
        }

        if (double.IsPositiveInfinity(best[chunks, layers]))
        {
            throw new ArgumentException(
                $"no way to cut {layers} layers of {bytes.Sum():N0} bytes into {chunks} chunks has at most {limit:N0} bytes in each; the largest layer has {bytes.Max():N0}: allow more memory, or use more stages");
        }

        var counts = new int[chunks];
        for (int used = chunks, end = layers; used > 0; end = begin[used, end], used--) counts[used - 1] = end - begin[used, end];
        return counts;
    }
}

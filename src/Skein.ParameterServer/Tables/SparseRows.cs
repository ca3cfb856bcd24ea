using System.Buffers;
using System.Numerics;
using System.Numerics.Tensors;

namespace Skein.ParameterServer;

/// <summary>What clients do with the ids and rows of embedding tables. Thread-safe.</summary>
public static class SparseRows
{
    /// <summary>
    /// The server that holds a row: neighbouring ids, which are often alike in how hot they are (Zipf), spread over all.
    /// Processes and checkpoints rely on it never changing.
    /// </summary>
    /// <param name="id">The row.</param>
    /// <param name="servers">The number of servers, at least 1.</param>
    public static int ServerOf(long id, int servers)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(servers, 1);
        return (int)(StableHash.Mix((ulong)id) % (ulong)servers);
    }

    /// <summary>
    /// Sums the gradients of each id in place: afterwards the ids are distinct, in the order of their first appearance, and
    /// rows are summed in the order in which they came.
    /// </summary>
    /// <param name="ids">The ids; the first ones, as many as are returned, are the distinct ones afterwards.</param>
    /// <param name="gradients">A row for each id, one after the other; afterwards the first ones are the sums.</param>
    /// <param name="dimension">The elements of a row, at least 1.</param>
    /// <returns>The number of distinct ids.</returns>
    /// <exception cref="ArgumentException">The number of gradients does not fit.</exception>
    public static int Combine(Span<long> ids, Span<float> gradients, int dimension)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(dimension, 1);
        if (gradients.Length != (long)ids.Length * dimension)
            throw new ArgumentException($"{ids.Length} rows of {dimension} elements with {gradients.Length} gradients; as many must be given as the rows have elements", nameof(gradients));

        // A hash table with linear probing, at most half full, of places in ids; 0 is empty.
        int slots = checked((int)BitOperations.RoundUpToPowerOf2((uint)ids.Length * 2 + 1));
        int[] table = ArrayPool<int>.Shared.Rent(slots);
        Array.Clear(table, 0, slots);
        int distinct = 0;
        for (int i = 0; i < ids.Length; i++)
        {
            int slot = (int)(StableHash.Mix((ulong)ids[i]) >> 32) & (slots - 1);
            while (table[slot] != 0 && ids[table[slot] - 1] != ids[i]) slot = (slot + 1) & (slots - 1);
            Span<float> row = gradients.Slice(i * dimension, dimension);
            if (table[slot] != 0)
            {
                Span<float> sum = gradients.Slice((table[slot] - 1) * dimension, dimension);
                TensorPrimitives.Add(sum, row, sum);
                continue;
            }

            ids[distinct] = ids[i];
            row.CopyTo(gradients.Slice(distinct * dimension, dimension));
            table[slot] = ++distinct;
        }

        ArrayPool<int>.Shared.Return(table);
        return distinct;
    }
}

namespace Skein.Training.Data;

/// <summary>
/// Decides which samples of a data set make up each global batch, and which of those this rank takes. The order
/// depends only on the seed and the epoch, so global batch t holds the same samples for any world size; rank r takes
/// its r-th contiguous slice. Slices are disjoint and together cover every sample once an epoch.
/// </summary>
/// <remarks>
/// The last global batch of an epoch is smaller when the batch size does not divide the number of samples. Any batch
/// whose size does not divide by the world size is split as evenly as possible: the first ranks take one sample more,
/// and ranks beyond the batch's size take none. Whoever averages gradients has to weight ranks by their samples (the
/// <see cref="Trainer"/> does). Not thread-safe.
/// </remarks>
public sealed class DistributedSampler
{
    private readonly long[] order;
    private readonly int batchSize;
    private readonly int rank;
    private readonly int worldSize;
    private readonly long seed;
    private readonly bool shuffle;

    /// <summary>A sampler at epoch 0.</summary>
    /// <param name="count">The number of samples in the data set, 1 or more.</param>
    /// <param name="batchSize">Samples per global batch, over all ranks, 1 or more.</param>
    /// <param name="rank">This rank, from 0 to <paramref name="worldSize"/> - 1.</param>
    /// <param name="worldSize">The number of ranks, 1 or more.</param>
    /// <param name="seed">Seeds the shuffle; the same on every rank.</param>
    /// <param name="shuffle">False keeps the data set's own order in every epoch.</param>
    public DistributedSampler(int count, int batchSize, int rank, int worldSize, long seed = 0, bool shuffle = true)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(count, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(batchSize, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(worldSize, 1);
        ArgumentOutOfRangeException.ThrowIfNegative(rank);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(rank, worldSize);
        this.batchSize = batchSize;
        this.rank = rank;
        this.worldSize = worldSize;
        this.seed = seed;
        this.shuffle = shuffle;
        order = new long[count];
        SetEpoch(0);
    }

    /// <summary>The number of global batches in an epoch, the last one possibly smaller.</summary>
    public int BatchesPerEpoch => (order.Length + batchSize - 1) / batchSize;

    /// <summary>The epoch whose order is current.</summary>
    public int Epoch { get; private set; }

    /// <summary>The whole epoch's samples in order: batch t is [t·B, (t+1)·B). Valid until <see cref="SetEpoch"/>.</summary>
    public ReadOnlyMemory<long> Order => order;

    /// <summary>Shuffles for <paramref name="epoch"/>, from scratch: epochs may be visited in any order.</summary>
    public void SetEpoch(int epoch)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(epoch);
        Epoch = epoch;
        for (int i = 0; i < order.Length; i++) order[i] = i;
        if (!shuffle) return;

        // Fisher-Yates. The generator is our own, so that the order never changes with the runtime's version.
        var random = new SplitMix64(seed, epoch);
        for (int i = order.Length - 1; i > 0; i--)
        {
            int j = random.Next(i + 1);
            (order[i], order[j]) = (order[j], order[i]);
        }
    }

    /// <summary>The number of samples in global batch <paramref name="batch"/>, over all ranks.</summary>
    public int GlobalBatchSize(int batch)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(batch);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(batch, BatchesPerEpoch);
        return Math.Min(batchSize, order.Length - (batch * batchSize));
    }

    /// <summary>Where in <see cref="Order"/> this rank's share of global batch <paramref name="batch"/> lies; may be empty.</summary>
    public (int Start, int Count) LocalSlice(int batch)
    {
        (int start, int count) = Split(GlobalBatchSize(batch), worldSize, rank);
        return ((batch * batchSize) + start, count);
    }

    /// <summary>This rank's samples of global batch <paramref name="batch"/>; may be empty.</summary>
    public ReadOnlySpan<long> LocalIndices(int batch)
    {
        (int start, int count) = LocalSlice(batch);
        return order.AsSpan(start, count);
    }

    /// <summary>Part <paramref name="part"/> of <paramref name="length"/> items split into <paramref name="parts"/> contiguous parts, the first ones one longer where it does not divide.</summary>
    internal static (int Start, int Count) Split(int length, int parts, int part)
    {
        (int quotient, int remainder) = Math.DivRem(length, parts);
        return ((part * quotient) + Math.Min(part, remainder), quotient + (part < remainder ? 1 : 0));
    }
}

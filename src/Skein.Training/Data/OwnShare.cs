using static TorchSharp.torch;

namespace Skein.Training.Data;

/// <summary>The samples that a rank keeps to itself, laid out as a <see cref="DistributedSampler"/>'s order. Not thread-safe.</summary>
internal sealed class OwnShare
{
    private readonly IReadOnlyList<int> samples;
    private readonly int rank;
    private readonly long seed;

    /// <exception cref="InvalidOperationException">The labels are not classes.</exception>
    public OwnShare(DataPartition partition, InMemoryDataset data, int rank, int worldSize, long seed)
    {
        if (data.Labels.dtype != ScalarType.Int64 || data.Labels.dim() != 1)
        {
            throw new InvalidOperationException(
                $"the data cannot be divided by {partition}: their labels are {data.Labels.dtype} [{string.Join(", ", data.Labels.shape)}], not one class (Int64) for each sample; use iid");
        }

        samples = partition.Divide(data.Labels.data<long>().ToArray(), worldSize, seed)[rank];
        this.rank = rank;
        this.seed = seed;
    }

    /// <summary>The epoch's order, where the places that this rank takes hold its own samples; the other places mean nothing.</summary>
    public long[] Arrange(DistributedSampler sampler)
    {
        var order = new long[sampler.Order.Length];
        int each = 0;
        for (int batch = 0; batch < sampler.BatchesPerEpoch; batch++) each += sampler.LocalSlice(batch).Count;
        long next = (long)sampler.Epoch * each;
        long pass = -1;
        int[] shuffled = [];
        for (int batch = 0; batch < sampler.BatchesPerEpoch; batch++)
        {
            (int start, int count) = sampler.LocalSlice(batch);
            for (int i = start; i < start + count; i++, next++)
            {
                if (next / samples.Count != pass)
                {
                    pass = next / samples.Count;
                    var random = new SplitMix64(seed, unchecked((rank * 0x9E3779B1L) + pass));
                    shuffled = DataPartition.Shuffled([.. samples], ref random);
                }

                order[i] = shuffled[(int)(next % samples.Count)];
            }
        }

        return order;
    }
}

namespace Skein.ParameterServer.Shards;

/// <summary>
/// The chunks of data whose gradients have been applied, so that one that is computed again (its worker died after its
/// push but before it could say so) counts once. Remembers the newest two epochs. Not thread-safe.
/// </summary>
internal sealed class AppliedChunks
{
    private readonly Dictionary<int, HashSet<int>> epochs = [];

    /// <summary>The number of a chunk in all of training.</summary>
    public static long Number(int epoch, int chunk) => ((long)epoch << 32) | (uint)chunk;

    /// <returns>False when it was applied before.</returns>
    public bool Add(long number)
    {
        int epoch = (int)(number >> 32);
        if (!epochs.TryGetValue(epoch, out HashSet<int>? applied))
        {
            epochs[epoch] = applied = [];
            foreach (int old in epochs.Keys.Where(known => known < epoch - 1).ToArray()) epochs.Remove(old);
        }

        return applied.Add((int)number);
    }
}

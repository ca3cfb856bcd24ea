namespace Skein.Collectives.Rendezvous;

/// <summary>
/// The key-value store through which the ranks of a job find each other. Keys are short strings, values at most
/// 1 MiB. Every operation is atomic. Thread-safe.
/// </summary>
public abstract class Store : IAsyncDisposable
{
    /// <summary>Sets <paramref name="key"/>, replacing any value, and wakes those who wait for it.</summary>
    public abstract Task SetAsync(string key, ReadOnlyMemory<byte> value, CancellationToken cancellationToken = default);

    /// <summary>The value of <paramref name="key"/>, waiting until somebody sets it.</summary>
    /// <exception cref="CollectiveTimeoutException">Nobody set it within <paramref name="timeout"/>; names the key.</exception>
    public abstract Task<byte[]> GetAsync(string key, TimeSpan timeout, CancellationToken cancellationToken = default);

    /// <summary>Adds to the decimal integer at <paramref name="key"/> (0 when absent) and returns the new value.</summary>
    public abstract Task<long> AddAsync(string key, long delta, CancellationToken cancellationToken = default);

    /// <summary>Sets <paramref name="key"/> only if its value is <paramref name="expected"/> (null: only if it does not exist).</summary>
    /// <returns>Whether it was set.</returns>
    public abstract Task<bool> CompareAndSetAsync(
        string key, ReadOnlyMemory<byte>? expected, ReadOnlyMemory<byte> desired, CancellationToken cancellationToken = default);

    /// <summary>Deletes <paramref name="key"/>.</summary>
    /// <returns>Whether it existed.</returns>
    public abstract Task<bool> DeleteAsync(string key, CancellationToken cancellationToken = default);

    /// <summary>Closes the connection; the values stay.</summary>
    public abstract ValueTask DisposeAsync();
}

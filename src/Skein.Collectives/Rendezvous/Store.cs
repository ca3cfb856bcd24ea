using System.Text;

namespace Skein.Collectives.Rendezvous;

/// <summary>
/// The key-value store through which the ranks of a job find each other. Keys have 1 to 1024 bytes in UTF-8, values at
/// most 1 MiB; anything else is an <see cref="ArgumentException"/>. Every operation is atomic. Thread-safe.
/// </summary>
public abstract class Store : IAsyncDisposable
{
    internal const int MaximumKeyLength = 1024;
    internal const int MaximumValueLength = 1 << 20;

    /// <summary>Sets <paramref name="key"/>, replacing any value, and wakes those who wait for it.</summary>
    public abstract Task SetAsync(string key, ReadOnlyMemory<byte> value, CancellationToken cancellationToken = default);

    /// <summary>The value of <paramref name="key"/>, waiting until somebody sets it.</summary>
    /// <param name="key">The key to wait for.</param>
    /// <param name="timeout">0 to 24 days; 0 asks once without waiting.</param>
    /// <param name="cancellationToken">Ends the wait early.</param>
    /// <exception cref="CollectiveTimeoutException">Nobody set it within <paramref name="timeout"/>; names the key.</exception>
    public abstract Task<byte[]> GetAsync(string key, TimeSpan timeout, CancellationToken cancellationToken = default);

    /// <summary>Adds to the decimal integer at <paramref name="key"/> (0 when absent) and returns the new value.</summary>
    /// <exception cref="InvalidOperationException">The value is not a decimal integer, or the sum exceeds 64 bits.</exception>
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

    private protected static void CheckKey(string key)
    {
        ArgumentException.ThrowIfNullOrEmpty(key);
        int length = Encoding.UTF8.GetByteCount(key);
        if (length > MaximumKeyLength)
        {
            throw new ArgumentException($"a key of {length} bytes in UTF-8; at most {MaximumKeyLength} are allowed", nameof(key));
        }
    }

    private protected static void CheckValue(string key, ReadOnlyMemory<byte> value)
    {
        if (value.Length > MaximumValueLength)
        {
            throw new ArgumentException(
                $"the value for the key '{key}' has {value.Length} bytes; at most {MaximumValueLength} are allowed", nameof(value));
        }
    }

    private protected static void CheckTimeout(TimeSpan timeout)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(timeout, TimeSpan.Zero);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(timeout, TimeSpan.FromDays(24));
    }

    private protected static CollectiveTimeoutException NobodySet(string key, TimeSpan timeout, string store) => new(
        $"waited {timeout.TotalSeconds:0.###} s for the key '{key}' in {store}, but no rank set it; " +
        "check that every rank was started and is still running");

    private protected static InvalidOperationException NotAnInteger(string key) => new(
        $"cannot add to the key '{key}': its value is not a decimal integer, or the sum exceeds 64 bits");
}

using System.Buffers.Text;
using System.Text;

namespace Skein.Collectives.Rendezvous;

/// <summary>A store in this process's memory, for ranks that are threads; <see cref="TcpStoreServer"/> serves one to others.</summary>
public sealed class InProcessStore : Store
{
    private readonly Dictionary<string, byte[]> values = [];
    private readonly Dictionary<string, Wait> waits = [];
    private bool disposed;

    /// <inheritdoc/>
    public override Task SetAsync(string key, ReadOnlyMemory<byte> value, CancellationToken cancellationToken = default)
    {
        CheckKey(key);
        CheckValue(key, value);
        lock (values)
        {
            ObjectDisposedException.ThrowIf(disposed, this);
            Replace(key, value.ToArray());
        }

        return Task.CompletedTask;
    }

    /// <inheritdoc/>
    public override async Task<byte[]> GetAsync(string key, TimeSpan timeout, CancellationToken cancellationToken = default)
    {
        CheckKey(key);
        CheckTimeout(timeout);
        Wait? wait;
        lock (values)
        {
            ObjectDisposedException.ThrowIf(disposed, this);
            if (values.TryGetValue(key, out byte[]? present)) return [.. present];
            if (!waits.TryGetValue(key, out wait)) waits.Add(key, wait = new Wait());
            wait.Count++;
        }

        try
        {
            byte[] value = await wait.Value.Task.WaitAsync(timeout, cancellationToken).ConfigureAwait(false);
            return [.. value];
        }
        catch (TimeoutException)
        {
            throw NobodySet(key, timeout, "the store");
        }
        finally
        {
            lock (values)
            {
                if (--wait.Count == 0 && waits.GetValueOrDefault(key) == wait) waits.Remove(key);
            }
        }
    }

    /// <inheritdoc/>
    public override Task<long> AddAsync(string key, long delta, CancellationToken cancellationToken = default)
    {
        CheckKey(key);
        lock (values)
        {
            ObjectDisposedException.ThrowIf(disposed, this);
            long sum = 0;
            if (values.TryGetValue(key, out byte[]? present)
                && !(Utf8Parser.TryParse(present, out sum, out int consumed) && consumed == present.Length))
            {
                throw NotAnInteger(key);
            }

            try
            {
                sum = checked(sum + delta);
            }
            catch (OverflowException)
            {
                throw NotAnInteger(key);
            }

            Replace(key, Encoding.ASCII.GetBytes(sum.ToString()));
            return Task.FromResult(sum);
        }
    }

    /// <inheritdoc/>
    public override Task<bool> CompareAndSetAsync(
        string key, ReadOnlyMemory<byte>? expected, ReadOnlyMemory<byte> desired, CancellationToken cancellationToken = default)
    {
        CheckKey(key);
        CheckValue(key, desired);
        lock (values)
        {
            ObjectDisposedException.ThrowIf(disposed, this);
            byte[]? present = values.GetValueOrDefault(key);
            bool equal = expected is { } bytes ? present is not null && bytes.Span.SequenceEqual(present) : present is null;
            if (equal) Replace(key, desired.ToArray());
            return Task.FromResult(equal);
        }
    }

    /// <inheritdoc/>
    public override Task<bool> DeleteAsync(string key, CancellationToken cancellationToken = default)
    {
        CheckKey(key);
        lock (values)
        {
            ObjectDisposedException.ThrowIf(disposed, this);
            return Task.FromResult(values.Remove(key));
        }
    }

    /// <summary>Ends the waiting calls with an <see cref="ObjectDisposedException"/>; the values are gone.</summary>
    public override ValueTask DisposeAsync()
    {
        lock (values)
        {
            disposed = true;
            values.Clear();
            foreach (Wait wait in waits.Values)
            {
                wait.Value.TrySetException(new ObjectDisposedException(nameof(InProcessStore)));
            }

            waits.Clear();
        }

        return ValueTask.CompletedTask;
    }

    private void Replace(string key, byte[] value)
    {
        values[key] = value;
        if (waits.Remove(key, out Wait? wait)) wait.Value.SetResult(value);
    }

    /// <summary>Those who wait for one key.</summary>
    private sealed class Wait
    {
        public TaskCompletionSource<byte[]> Value { get; } = new(TaskCreationOptions.RunContinuationsAsynchronously);

        public int Count { get; set; }
    }
}

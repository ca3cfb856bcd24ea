using System.Runtime.InteropServices;
using Skein.Collectives;
using Skein.ParameterServer.Wire;

namespace Skein.ParameterServer.Shards;

/// <summary>
/// The gradients of one push, whole in memory before any of it is applied: a worker that dies half-way leaves no trace.
/// Goes back to its pool when the last of those who share it releases it.
/// </summary>
internal sealed unsafe class StagedPush
{
    private readonly StagingPool pool;
    private readonly float* dense;
    private readonly long length;
    private int references;

    internal StagedPush(StagingPool pool, long length)
    {
        this.pool = pool;
        this.length = length;
        dense = (float*)NativePages.Allocate(checked((nint)(length * sizeof(float))));
    }

    /// <summary>What came before the gradients.</summary>
    public MessageHeader Header { get; set; }

    /// <summary>Called when the memory is free again.</summary>
    public Action? Released { get; set; }

    /// <summary>A byte for each slice, 0 where the push has no gradient for it; empty when it has one for all.</summary>
    public byte[] Present { get; set; } = [];

    /// <summary>Gradients of rows.</summary>
    public List<SparseGradient> Sparse { get; } = [];

    /// <summary>Whether all values are finite.</summary>
    public bool Finite { get; set; }

    /// <summary>The values of <paramref name="count"/> elements from <paramref name="start"/> on.</summary>
    public Span<float> Dense(long start, int count)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(start + count, length);
        return new Span<float>(dense + start, count);
    }

    public bool HasSlice(int index) => Present.Length == 0 || Present[index] != 0;

    public void Share() => Interlocked.Increment(ref references);

    public void Release()
    {
        if (Interlocked.Decrement(ref references) > 0) return;
        Action? released = Released;
        pool.Return(this);
        released?.Invoke();
    }

    internal void Rent()
    {
        references = 1;
        Present = [];
        Sparse.Clear();
        Finite = true;
        Released = null;
    }

    internal void Free() => NativeMemory.AlignedFree(dense);
}

/// <summary>Gradients of some rows of a table.</summary>
/// <param name="Table">The table's place in the layout.</param>
/// <param name="Ids">The rows.</param>
/// <param name="Rows">Their gradients, one behind the other.</param>
internal sealed record SparseGradient(int Table, long[] Ids, float[] Rows);

/// <summary>Staging memory of one shard, kept and used again. Thread-safe.</summary>
internal sealed class StagingPool(long length) : IDisposable
{
    private readonly Stack<StagedPush> free = new();
    private bool disposed;

    public StagedPush Rent()
    {
        StagedPush? push;
        lock (free) free.TryPop(out push);
        push ??= new StagedPush(this, length);
        push.Rent();
        return push;
    }

    public void Return(StagedPush push)
    {
        lock (free)
        {
            if (!disposed)
            {
                free.Push(push);
                return;
            }
        }

        push.Free();
    }

    public void Dispose()
    {
        lock (free)
        {
            disposed = true;
            while (free.TryPop(out StagedPush? push)) push.Free();
        }
    }
}

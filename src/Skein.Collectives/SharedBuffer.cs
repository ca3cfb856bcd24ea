using System.Buffers;

namespace Skein.Collectives;

/// <summary>
/// Memory for collectives, the same length on every rank, that needs no staging copy: it lives in memory that all
/// ranks of the host have mapped (shared memory), or is pooled, page-aligned native memory (other transports).
/// Zeroed at first use. Any slice of it may be passed to a collective. Not thread-safe.
/// </summary>
public sealed unsafe class SharedBuffer<T> : MemoryManager<T> where T : unmanaged
{
    private readonly Action<nint>? release;
    private T* pointer;

    internal SharedBuffer(nint pointer, int length, Action<nint>? release)
    {
        this.pointer = (T*)pointer;
        Length = length;
        this.release = release;
    }

    /// <summary>The number of elements.</summary>
    public int Length { get; }

    /// <summary>The address of the first element; it does not move, and is valid until <see cref="Dispose()"/>.</summary>
    public nint Pointer => (nint)pointer;

    /// <inheritdoc/>
    public override Span<T> GetSpan()
    {
        ObjectDisposedException.ThrowIf(pointer is null && Length > 0, this);
        return new Span<T>(pointer, Length);
    }

    /// <inheritdoc/>
    public override MemoryHandle Pin(int elementIndex = 0) => new(pointer + elementIndex);

    /// <inheritdoc/>
    public override void Unpin() { }

    /// <summary>Gives the memory back for the group's next <see cref="ProcessGroup.AllocateShared{T}"/>.</summary>
    public void Dispose() => ((IDisposable)this).Dispose();

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        nint address = (nint)pointer;
        pointer = null;
        if (address != 0) release?.Invoke(address);
    }
}

using System.Buffers;

namespace Skein.Collectives;

public sealed unsafe partial class ProcessGroup
{
    private readonly object messagesGate = new();
    private MessageQueue? messages;

    /// <summary>Sends a message. Returns when the buffer may be used again, which does not mean that it was received.</summary>
    /// <param name="buffer">What to send, 0 elements included.</param>
    /// <param name="destination">The rank that receives; may be this one.</param>
    /// <param name="tag">Tells messages of one sender apart.</param>
    public void Send<T>(ReadOnlySpan<T> buffer, int destination, int tag = 0) where T : unmanaged
    {
        fixed (T* pointer = buffer)
        {
            MessageQueue queue = Messages(destination);
            queue.Wait(queue.Send(destination, tag, ElementTypes.Of<T>(), (byte*)pointer, (nint)buffer.Length * sizeof(T), default, null));
        }
    }

    /// <inheritdoc cref="Send{T}"/>
    public CollectiveHandle SendAsync<T>(ReadOnlyMemory<T> buffer, int destination, int tag = 0) where T : unmanaged
    {
        MessageQueue queue = Messages(destination);
        ElementType type = ElementTypes.Of<T>();
        nint length = (nint)buffer.Length * sizeof(T);
        return WithPinned(buffer, (pin, handle) => queue.Send(destination, tag, type, (byte*)pin.Pointer, length, pin, handle));
    }

    /// <summary>Receives the next message of that source and tag. Messages of one source and tag come in the order they were sent.</summary>
    /// <param name="buffer">Receives the elements; at least as long as the message.</param>
    /// <param name="source">The rank that sends, or <see cref="AnySource"/>.</param>
    /// <param name="tag">The tag it was sent with.</param>
    /// <returns>Which rank it came from, and how many elements.</returns>
    /// <exception cref="CollectiveMismatchException">The message has another element type, or is longer than the buffer.</exception>
    public (int Source, int Count) Recv<T>(Span<T> buffer, int source = AnySource, int tag = 0) where T : unmanaged
    {
        fixed (T* pointer = buffer)
        {
            MessageQueue queue = Messages(source);
            MessageQueue.Operation operation = queue.Receive(
                source, tag, ElementTypes.Of<T>(), (byte*)pointer, (nint)buffer.Length * sizeof(T), default, null);
            queue.Wait(operation);
            return (operation.Peer, (int)(operation.Length / sizeof(T)));
        }
    }

    /// <inheritdoc cref="Recv{T}"/>
    public CollectiveHandle RecvAsync<T>(Memory<T> buffer, int source = AnySource, int tag = 0) where T : unmanaged
    {
        MessageQueue queue = Messages(source);
        ElementType type = ElementTypes.Of<T>();
        nint length = (nint)buffer.Length * sizeof(T);
        return WithPinned<T>(buffer, (pin, handle) => queue.Receive(source, tag, type, (byte*)pin.Pointer, length, pin, handle));
    }

    private static CollectiveHandle WithPinned<T>(ReadOnlyMemory<T> buffer, Action<MemoryHandle, CollectiveHandle> start)
    {
        var handle = new CollectiveHandle();
        MemoryHandle pin = buffer.Pin();
        try
        {
            start(pin, handle);
        }
        catch
        {
            pin.Dispose();
            throw;
        }

        return handle;
    }

    private MessageQueue Messages(int peer)
    {
        ObjectDisposedException.ThrowIf(disposed, this);
        if (peer < AnySource || peer >= WorldSize)
        {
            throw new ArgumentOutOfRangeException(nameof(peer), peer, $"a rank of the group is 0 to {WorldSize - 1}");
        }

        if (messages is not null) return messages;
        lock (messagesGate)
        {
            return messages ??= new MessageQueue(
                wiring?.Messages ?? new Transports.LoneTransport(),
                new Patience(job, id, context, members),
                Timeout,
                (lost, error) => job.Fail(lost >= 0 ? job.Unreachable(members[lost], error.Message, "a message") : error));
        }
    }
}

using System.Net.Sockets;
using System.Runtime.InteropServices;

namespace Skein.Collectives.Transports.Tcp;

/// <summary>
/// Streams over TCP: one authenticated connection per direction of a pair, opened by the sender when it first sends.
/// Bytes go between user memory and the socket with no copy but the kernel's; a header and its payload go in one call.
/// </summary>
/// <param name="rank">This process's rank in the group.</param>
/// <param name="worldSize">The number of ranks.</param>
/// <param name="open">Connects to a rank of the group.</param>
internal sealed unsafe partial class TcpTransport(int rank, int worldSize, Func<int, TimeSpan, Socket> open)
    : Transport(rank, worldSize)
{
    private const short Readable = 1;
    private const short Writable = 4;
    private const int TryAgain = 11;
    private const int TryAgainMac = 35;
    private const int Interrupted = 4;

    private readonly Connection?[] outgoing = new Connection?[worldSize];
    private readonly Connection?[] incoming = new Connection?[worldSize];
    private readonly object gate = new();
    private bool disposed;

    public override string Name => "tcp";

    /// <summary>Larger than the others': each piece costs calls into the kernel, which copies while this side reduces.</summary>
    public override int PieceBytes => 1024 * 1024;

    public override void Connect(int peer, TimeSpan timeout)
    {
        if (Volatile.Read(ref outgoing[peer]) is not null) return;
        lock (gate) outgoing[peer] ??= new Connection(open(peer, timeout));
    }

    /// <summary>Takes over the connection that <paramref name="peer"/> has opened to send on. May come from any thread.</summary>
    public void Adopt(int peer, Socket socket)
    {
        lock (gate)
        {
            if (disposed || peer < 0 || peer >= WorldSize || incoming[peer] is not null) socket.Dispose();
            else Volatile.Write(ref incoming[peer], new Connection(socket));
        }
    }

    public override int TrySend(int peer, ReadOnlySpan<byte> header, ReadOnlySpan<byte> payload)
    {
        int descriptor = outgoing[peer]!.Descriptor;
        fixed (byte* first = header, second = payload)
        {
            var parts = new Parts(first, header.Length, second, payload.Length);
            nint sent = header.IsEmpty
                ? send(descriptor, second, payload.Length, 0)
                : writev(descriptor, &parts, payload.IsEmpty ? 1 : 2);
            return sent >= 0 ? (int)sent : Nothing(peer, "send to");
        }
    }

    public override int TryReceive(int peer, Span<byte> header, Span<byte> payload)
    {
        if (Volatile.Read(ref incoming[peer]) is not { Descriptor: var descriptor }) return 0;
        fixed (byte* first = header, second = payload)
        {
            var parts = new Parts(first, header.Length, second, payload.Length);
            nint received = header.IsEmpty
                ? recv(descriptor, second, payload.Length, 0)
                : readv(descriptor, &parts, payload.IsEmpty ? 1 : 2);
            if (received > 0) return (int)received;
            if (received == 0) throw Lost(peer, "the connection was closed by the other side");
            return Nothing(peer, "receive from");
        }
    }

    public override void Wait(ReadOnlySpan<int> sendPeers, ReadOnlySpan<int> receivePeers, int milliseconds)
    {
        Span<PollEntry> entries = stackalloc PollEntry[sendPeers.Length + receivePeers.Length];
        int count = 0;
        foreach (int peer in sendPeers) entries[count++] = new PollEntry(outgoing[peer]!.Descriptor, Writable);
        foreach (int peer in receivePeers)
        {
            if (Volatile.Read(ref incoming[peer]) is { } connection) entries[count++] = new PollEntry(connection.Descriptor, Readable);
            // A peer that has not connected yet cannot be polled; look again soon.
            else milliseconds = Math.Min(milliseconds, 1);
        }

        fixed (PollEntry* first = entries) _ = poll(first, (nuint)count, milliseconds);
    }

    public override void Dispose()
    {
        lock (gate)
        {
            disposed = true;
            foreach (Connection? connection in outgoing) connection?.Socket.Dispose();
            foreach (Connection? connection in incoming) connection?.Socket.Dispose();
        }
    }

    private static int Nothing(int peer, string what)
    {
        int error = Marshal.GetLastPInvokeError();
        if (error is TryAgain or TryAgainMac or Interrupted) return 0;
        throw Lost(peer, $"cannot {what} it: {Marshal.GetPInvokeErrorMessage(error)}");
    }

    private static PeerUnreachable Lost(int peer, string reason) => new(peer, reason);

    /// <summary>A socket that never blocks, and the descriptor under it.</summary>
    private sealed class Connection
    {
        public Connection(Socket socket)
        {
            socket.Blocking = false;
            Socket = socket;
            Descriptor = (int)socket.Handle;
        }

        public Socket Socket { get; }

        public int Descriptor { get; }
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint writev(int socket, Parts* parts, int count);

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint readv(int socket, Parts* parts, int count);

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint send(int socket, byte* bytes, nint length, int flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint recv(int socket, byte* bytes, nint length, int flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int poll(PollEntry* entries, nuint count, int milliseconds);

    /// <summary>Two of the C library's <c>iovec</c>.</summary>
    private readonly struct Parts(byte* first, nint firstLength, byte* second, nint secondLength)
    {
        public readonly byte* First = first;
        public readonly nint FirstLength = firstLength;
        public readonly byte* Second = second;
        public readonly nint SecondLength = secondLength;
    }

    /// <summary>The C library's <c>pollfd</c>.</summary>
    private readonly struct PollEntry(int descriptor, short events)
    {
        public readonly int Descriptor = descriptor;
        public readonly short Events = events;
        public readonly short Returned = 0;
    }
}

using System.Diagnostics;
using System.Net.Sockets;
using System.Runtime.InteropServices;

namespace Skein.ParameterServer.Wire;

/// <summary>
/// One side of a stream of messages. Large pieces go between user memory and the socket with no copy but the kernel's;
/// small ones are gathered. One thread at a time writes and one reads; they may be two.
/// </summary>
internal sealed class DataConnection : IDisposable
{
    private const int GatherBytes = 64 * 1024;
    private const int SliceMicroseconds = 50_000;

    private readonly Socket socket;
    private readonly byte[] gathered = new byte[GatherBytes];
    private int pending;

    /// <param name="socket">Authenticated, and owned from now on.</param>
    public DataConnection(Socket socket)
    {
        this.socket = socket;
        socket.Blocking = false;
    }

    public long BytesSent { get; private set; }

    public long BytesReceived { get; private set; }

    /// <summary>Called about every 50 ms of a wait, with how long no byte has moved; what it throws ends the wait.</summary>
    public Action<TimeSpan>? Waiting { get; set; }

    public void Write(in MessageHeader header) => Write(MemoryMarshal.AsBytes(new ReadOnlySpan<MessageHeader>(in header)));

    /// <exception cref="IOException">The connection is lost.</exception>
    public void Write(ReadOnlySpan<byte> bytes)
    {
        if (bytes.Length > gathered.Length - pending) Flush();
        if (bytes.Length >= gathered.Length)
        {
            Send(bytes);
            return;
        }

        bytes.CopyTo(gathered.AsSpan(pending));
        pending += bytes.Length;
    }

    /// <exception cref="IOException">The connection is lost.</exception>
    public void Flush()
    {
        int count = pending;
        pending = 0;
        if (count > 0) Send(gathered.AsSpan(0, count));
    }

    /// <exception cref="IOException">The connection is lost.</exception>
    public MessageHeader ReadHeader()
    {
        var header = default(MessageHeader);
        Read(MemoryMarshal.AsBytes(new Span<MessageHeader>(ref header)));
        return header;
    }

    /// <summary>Fills <paramref name="destination"/>.</summary>
    /// <exception cref="IOException">The connection is lost.</exception>
    public void Read(Span<byte> destination)
    {
        long moved = Stopwatch.GetTimestamp();
        while (!destination.IsEmpty)
        {
            int received = socket.Receive(destination, SocketFlags.None, out SocketError error);
            if (error == SocketError.WouldBlock || error == SocketError.Interrupted)
            {
                Wait(SelectMode.SelectRead, moved);
                continue;
            }

            if (error != SocketError.Success) throw Lost(error);
            if (received == 0) throw new IOException("the connection was closed by the other side");
            BytesReceived += received;
            destination = destination[received..];
            moved = Stopwatch.GetTimestamp();
        }
    }

    /// <summary>Closes the stream, which ends the waits of both threads with an <see cref="IOException"/>.</summary>
    public void Dispose()
    {
        try
        {
            socket.Shutdown(SocketShutdown.Both);
        }
        catch (Exception error) when (error is SocketException or ObjectDisposedException)
        {
            // The other side closed first.
        }

        socket.Dispose();
    }

    private void Send(ReadOnlySpan<byte> bytes)
    {
        long moved = Stopwatch.GetTimestamp();
        while (!bytes.IsEmpty)
        {
            int sent = socket.Send(bytes, SocketFlags.None, out SocketError error);
            if (error == SocketError.WouldBlock || error == SocketError.Interrupted)
            {
                Wait(SelectMode.SelectWrite, moved);
                continue;
            }

            if (error != SocketError.Success) throw Lost(error);
            BytesSent += sent;
            bytes = bytes[sent..];
            moved = Stopwatch.GetTimestamp();
        }
    }

    private void Wait(SelectMode mode, long moved)
    {
        if (!socket.Poll(SliceMicroseconds, mode)) Waiting?.Invoke(Stopwatch.GetElapsedTime(moved));
    }

    private static IOException Lost(SocketError error) => new($"the connection was lost: {new SocketException((int)error).Message}");
}

using System.Buffers.Binary;
using System.Net.Sockets;
using System.Text;

namespace Skein.Collectives;

/// <summary>
/// Hands connections that other ranks open to the group they are for. A connection may come before this rank has made
/// that group; it is kept until then. Thread-safe.
/// </summary>
internal sealed class LinkAcceptor : IDisposable
{
    private readonly object gate = new();
    private readonly Dictionary<string, Action<int, Socket>> served = [];
    private readonly List<(string Group, int From, Socket Socket)> early = [];

    public static byte[] Hello(string group, int from)
    {
        byte[] hello = new byte[4 + Encoding.UTF8.GetByteCount(group)];
        BinaryPrimitives.WriteInt32LittleEndian(hello, from);
        Encoding.UTF8.GetBytes(group, hello.AsSpan(4));
        return hello;
    }

    public Task AcceptAsync(Socket socket, ReadOnlyMemory<byte> hello)
    {
        if (hello.Length < 4)
        {
            socket.Dispose();
            return Task.CompletedTask;
        }

        int from = BinaryPrimitives.ReadInt32LittleEndian(hello.Span);
        string group = Encoding.UTF8.GetString(hello.Span[4..]);
        lock (gate)
        {
            if (served.TryGetValue(group, out Action<int, Socket>? adopt)) adopt(from, socket);
            else early.Add((group, from, socket));
        }

        return Task.CompletedTask;
    }

    public void Serve(string group, Action<int, Socket> adopt)
    {
        lock (gate)
        {
            served[group] = adopt;
            foreach ((string _, int from, Socket socket) in early.Where(link => link.Group == group)) adopt(from, socket);
            early.RemoveAll(link => link.Group == group);
        }
    }

    public void Dispose()
    {
        lock (gate)
        {
            foreach ((_, _, Socket socket) in early) socket.Dispose();
            early.Clear();
        }
    }
}

using System.Net;
using System.Net.Sockets;

namespace Skein.Collectives.Tests.Rendezvous;

/// <summary>Plain sockets, as a stranger has them.</summary>
internal static class Sockets
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);

    public static async Task<Socket> ConnectAsync(IPEndPoint endpoint)
    {
        var socket = new Socket(endpoint.AddressFamily, SocketType.Stream, ProtocolType.Tcp);
        await socket.ConnectAsync(endpoint);
        return socket;
    }

    public static async Task<byte[]> ReadAsync(Socket socket, int length)
    {
        using var stream = new NetworkStream(socket, ownsSocket: false);
        using var limit = new CancellationTokenSource(Patience);
        var content = new byte[length];
        await stream.ReadExactlyAsync(content, limit.Token);
        return content;
    }

    /// <summary>Reads and drops what comes, until the other side closes.</summary>
    public static async Task<bool> IsClosedByPeerAsync(Socket socket)
    {
        using var limit = new CancellationTokenSource(Patience);
        var buffer = new byte[4096];
        try
        {
            while (await socket.ReceiveAsync(buffer, limit.Token) > 0)
            {
            }

            return true;
        }
        catch (SocketException)
        {
            return true;
        }
        catch (OperationCanceledException)
        {
            return false;
        }
    }
}

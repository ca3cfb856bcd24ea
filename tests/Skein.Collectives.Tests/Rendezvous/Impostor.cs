using System.Net;
using System.Net.Sockets;
using Skein.Collectives.Rendezvous;

namespace Skein.Collectives.Tests.Rendezvous;

/// <summary>Something else that listens: handles one connection after the other.</summary>
internal sealed class Impostor : IDisposable
{
    private readonly TcpListener tcp = new(IPAddress.Loopback, 0);

    public int Port => ((IPEndPoint)tcp.LocalEndpoint).Port;

    public static Impostor Start(Func<Socket, Task> serve)
    {
        var impostor = new Impostor();
        impostor.tcp.Start();
        _ = impostor.RunAsync(serve);
        return impostor;
    }

    /// <summary>One that knows the secret, but closes the first <paramref name="dropped"/> connections when their handshake is done.</summary>
    public static Impostor StartOverloaded(JobSecret secret, int dropped, Func<Socket, ReadOnlyMemory<byte>, Task> serve) => Start(async socket =>
    {
        using var stream = new NetworkStream(socket, ownsSocket: false);
        (byte _, byte[] hello, TrafficKeys _) = (await Handshake.AcceptAsync(stream, secret, static _ => true, CancellationToken.None))!.Value;
        if (dropped-- > 0) return;
        await stream.WriteAsync(Handshake.Admitted);
        await serve(socket, hello);
    });

    public void Dispose() => tcp.Dispose();

    private async Task RunAsync(Func<Socket, Task> serve)
    {
        while (true)
        {
            using Socket socket = await tcp.AcceptSocketAsync();
            await serve(socket);
        }
    }
}

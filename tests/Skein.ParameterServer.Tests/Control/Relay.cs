using System.Net;
using System.Net.Sockets;

namespace Skein.ParameterServer.Tests.Control;

/// <summary>Passes one connection on to a port of this host, until it is cut.</summary>
internal sealed class Relay : IDisposable
{
    private readonly TcpListener listener = new(IPAddress.Loopback, 0);
    private readonly CancellationTokenSource cut = new();

    public Relay(int target)
    {
        listener.Start();
        Port = ((IPEndPoint)listener.LocalEndpoint).Port;
        _ = RunAsync(target);
    }

    public int Port { get; }

    public static int UnusedPort()
    {
        using var listener = new TcpListener(IPAddress.Loopback, 0);
        listener.Start();
        return ((IPEndPoint)listener.LocalEndpoint).Port;
    }

    public void Dispose()
    {
        cut.Cancel();
        listener.Dispose();
    }

    private async Task RunAsync(int target)
    {
        using TcpClient near = await listener.AcceptTcpClientAsync();
        using var far = new TcpClient();
        await far.ConnectAsync(IPAddress.Loopback, target);
        try
        {
            await Task.WhenAny(
                near.GetStream().CopyToAsync(far.GetStream(), cut.Token),
                far.GetStream().CopyToAsync(near.GetStream(), cut.Token));
        }
        catch (OperationCanceledException)
        {
            // Cut.
        }
    }
}

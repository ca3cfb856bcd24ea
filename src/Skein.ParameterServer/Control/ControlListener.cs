using System.Net;
using System.Net.Sockets;
using System.Threading.Channels;
using Microsoft.Extensions.Logging;
using Skein.Collectives.Rendezvous;

namespace Skein.ParameterServer.Control;

/// <summary>
/// Accepts the connections over which a <see cref="ControlService"/> is to be served: only those that have proved to know the job's
/// secret; strangers cost a bounded amount and delay nobody. Thread-safe.
/// </summary>
public sealed class ControlListener : IAsyncDisposable
{
    private readonly AuthenticatedListener listener;
    private readonly Channel<Socket> accepted = Channel.CreateUnbounded<Socket>();

    private ControlListener(AuthenticatedListener listener)
    {
        this.listener = listener;
        listener.Register(ConnectionPurpose.Control, (socket, _) =>
        {
            if (!accepted.Writer.TryWrite(socket)) socket.Dispose();
            return Task.CompletedTask;
        });
    }

    /// <summary>The address that it listens at, with the port that the system chose if none was asked for.</summary>
    public IPEndPoint Endpoint => listener.Endpoint;

    /// <summary>Starts to listen; port 0 lets the system choose.</summary>
    /// <exception cref="Skein.Collectives.RendezvousException">The address cannot be listened at.</exception>
    public static ControlListener Start(IPEndPoint endpoint, JobSecret secret, ILogger? logger = null) =>
        new(AuthenticatedListener.Start(endpoint, secret, logger));

    /// <summary>Waits for the next connection, the caller's to dispose; null when this listener has been disposed.</summary>
    public async ValueTask<Socket?> AcceptAsync(CancellationToken cancellationToken = default) =>
        await accepted.Reader.WaitToReadAsync(cancellationToken).ConfigureAwait(false) && accepted.Reader.TryRead(out Socket? socket)
            ? socket
            : null;

    /// <summary>Stops listening, and closes what nobody has accepted.</summary>
    public async ValueTask DisposeAsync()
    {
        await listener.DisposeAsync().ConfigureAwait(false);
        accepted.Writer.TryComplete();
        while (accepted.Reader.TryRead(out Socket? socket)) socket.Dispose();
    }
}

using System.Net;
using System.Net.Sockets;
using System.Threading.Channels;
using Microsoft.AspNetCore.Connections;
using Microsoft.AspNetCore.Server.Kestrel.Transport.Sockets;
using Microsoft.Extensions.Logging;
using Skein.Collectives.Rendezvous;

namespace Skein.ParameterServer.Control;

/// <summary>
/// Gives Kestrel connections that have proved to know the job's secret, and no others: strangers end in the
/// <see cref="AuthenticatedListener"/>, with its limits, before a byte of HTTP is read.
/// </summary>
internal sealed class ControlTransport(JobSecret secret, ILogger logger) : IConnectionListenerFactory
{
    /// <inheritdoc/>
    public ValueTask<IConnectionListener> BindAsync(EndPoint endpoint, CancellationToken cancellationToken = default) =>
        ValueTask.FromResult<IConnectionListener>(new Listener(AuthenticatedListener.Start((IPEndPoint)endpoint, secret, logger), logger));

    private sealed class Listener : IConnectionListener
    {
        private readonly AuthenticatedListener listener;
        private readonly SocketConnectionContextFactory connections;
        private readonly Channel<Socket> accepted = Channel.CreateUnbounded<Socket>();

        public Listener(AuthenticatedListener listener, ILogger logger)
        {
            this.listener = listener;
            connections = new SocketConnectionContextFactory(new SocketConnectionFactoryOptions(), logger);
            listener.Register(ConnectionPurpose.Control, (socket, _) =>
            {
                if (!accepted.Writer.TryWrite(socket)) socket.Dispose();
                return Task.CompletedTask;
            });
        }

        public EndPoint EndPoint => listener.Endpoint;

        public async ValueTask<ConnectionContext?> AcceptAsync(CancellationToken cancellationToken = default) =>
            await accepted.Reader.WaitToReadAsync(cancellationToken).ConfigureAwait(false) && accepted.Reader.TryRead(out Socket? socket)
                ? connections.Create(socket)
                : null;

        public async ValueTask UnbindAsync(CancellationToken cancellationToken = default)
        {
            await listener.DisposeAsync().ConfigureAwait(false);
            accepted.Writer.TryComplete();
        }

        public async ValueTask DisposeAsync()
        {
            await UnbindAsync().ConfigureAwait(false);
            while (accepted.Reader.TryRead(out Socket? socket)) socket.Dispose();
            connections.Dispose();
        }
    }
}

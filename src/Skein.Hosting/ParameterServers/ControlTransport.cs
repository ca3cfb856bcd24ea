using System.Net;
using Microsoft.AspNetCore.Connections;
using Microsoft.AspNetCore.Server.Kestrel.Transport.Sockets;
using Microsoft.Extensions.Logging;
using Skein.Collectives.Rendezvous;
using Skein.ParameterServer.Control;

namespace Skein.Hosting.ParameterServers;

/// <summary>
/// Gives Kestrel connections that have proved to know the job's secret, and no others: strangers end in the
/// <see cref="ControlListener"/>, with its limits, before a byte of HTTP is read.
/// </summary>
internal sealed class ControlTransport(JobSecret secret, ILogger logger) : IConnectionListenerFactory
{
    /// <inheritdoc/>
    public ValueTask<IConnectionListener> BindAsync(EndPoint endpoint, CancellationToken cancellationToken = default) =>
        ValueTask.FromResult<IConnectionListener>(new Listener(ControlListener.Start((IPEndPoint)endpoint, secret, logger), logger));

    private sealed class Listener(ControlListener listener, ILogger logger) : IConnectionListener
    {
        private readonly SocketConnectionContextFactory connections = new(new SocketConnectionFactoryOptions(), logger);

        public EndPoint EndPoint => listener.Endpoint;

        public async ValueTask<ConnectionContext?> AcceptAsync(CancellationToken cancellationToken = default) =>
            await listener.AcceptAsync(cancellationToken).ConfigureAwait(false) is { } socket ? connections.Create(socket) : null;

        public ValueTask UnbindAsync(CancellationToken cancellationToken = default) => listener.DisposeAsync();

        public async ValueTask DisposeAsync()
        {
            await listener.DisposeAsync().ConfigureAwait(false);
            connections.Dispose();
        }
    }
}

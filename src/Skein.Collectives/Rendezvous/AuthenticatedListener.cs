using System.Collections.Concurrent;
using System.Net;
using System.Net.Sockets;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;

namespace Skein.Collectives.Rendezvous;

/// <summary>
/// Accepts connections and hands those that prove to know the job's secret to the handler of their purpose.
/// Strangers cost at most <see cref="MaximumUnauthenticated"/> sockets and a few hundred bytes each, for at most the
/// handshake timeout; they never delay a member of the job. Thread-safe.
/// </summary>
internal sealed class AuthenticatedListener : IAsyncDisposable
{
    /// <summary>How many connections may be in their handshake at once; the oldest is dropped for one more.</summary>
    public const int MaximumUnauthenticated = 128;

    // So that a stranger who keeps trying cannot fill the log: one warning per address, for so many addresses.
    private const int MaximumWarnings = 1024;

    private readonly Socket socket;
    private readonly JobSecret secret;
    private readonly ILogger logger;
    private readonly TimeSpan handshakeTimeout;
    private readonly ConcurrentDictionary<byte, Func<Socket, ReadOnlyMemory<byte>, Task>> handlers = new();
    private readonly LinkedList<Socket> unauthenticated = new();
    private readonly HashSet<IPAddress> warned = [];
    private readonly Task accepting;
    private volatile bool stopping;

    private AuthenticatedListener(Socket socket, JobSecret secret, ILogger logger, TimeSpan handshakeTimeout)
    {
        this.socket = socket;
        this.secret = secret;
        this.logger = logger;
        this.handshakeTimeout = handshakeTimeout;
        Endpoint = (IPEndPoint)socket.LocalEndPoint!;
        accepting = Task.Run(AcceptAsync);
    }

    /// <summary>The address that it listens at, with the port that the system chose if none was asked for.</summary>
    public IPEndPoint Endpoint { get; }

    /// <summary>Starts to listen; port 0 lets the system choose. The IPv6 any-address also accepts IPv4.</summary>
    /// <exception cref="RendezvousException">The address cannot be listened at.</exception>
    public static AuthenticatedListener Start(
        IPEndPoint endpoint, JobSecret secret, ILogger? logger = null, TimeSpan? handshakeTimeout = null)
    {
        var socket = new Socket(endpoint.AddressFamily, SocketType.Stream, ProtocolType.Tcp);
        try
        {
            if (endpoint.Address.Equals(IPAddress.IPv6Any)) socket.DualMode = true;
            socket.Bind(endpoint);
            socket.Listen(512);
        }
        catch (SocketException error)
        {
            socket.Dispose();
            throw new RendezvousException(ExplainBindFailure(endpoint, error), error);
        }

        return new AuthenticatedListener(
            socket, secret, logger ?? NullLogger.Instance, handshakeTimeout ?? Handshake.DefaultTimeout);
    }

    /// <summary>
    /// From now on hands connections of <paramref name="purpose"/> to <paramref name="handler"/>, which owns the socket.
    /// Clients that come earlier are asked to try again.
    /// </summary>
    public void Register(byte purpose, Func<Socket, ReadOnlyMemory<byte>, Task> handler)
    {
        if (!handlers.TryAdd(purpose, handler))
        {
            throw new InvalidOperationException($"purpose {purpose} is already served at {Endpoint}");
        }
    }

    /// <summary>Stops listening and drops the connections still in their handshake; the others belong to their handlers.</summary>
    public async ValueTask DisposeAsync()
    {
        stopping = true;
        socket.Dispose();
        await accepting.ConfigureAwait(false);
        lock (unauthenticated)
        {
            foreach (Socket client in unauthenticated) client.Dispose();
            unauthenticated.Clear();
        }
    }

    private async Task AcceptAsync()
    {
        while (!stopping)
        {
            Socket client;
            try
            {
                client = await socket.AcceptAsync().ConfigureAwait(false);
            }
            catch (Exception error) when (error is SocketException or ObjectDisposedException)
            {
                if (stopping) return;

                // The client gave up before it was accepted, or this process is out of descriptors: the latter passes
                // when handshakes end, and until then accepting again at once would burn a core.
                logger.LogWarning("Listening at {Endpoint}: a connection could not be accepted: {Reason}", Endpoint, error.Message);
                await Task.Delay(TimeSpan.FromMilliseconds(50)).ConfigureAwait(false);
                continue;
            }

            _ = Task.Run(() => ServeAsync(client));
        }
    }

    private async Task ServeAsync(Socket client)
    {
        LinkedListNode<Socket>? place = Admit(client);
        if (place is null) return;
        (byte Purpose, byte[] Hello, TrafficKeys Keys)? request = null;
        try
        {
            AuthenticatedConnection.Configure(client);
            using var timeout = new CancellationTokenSource(handshakeTimeout);
            await using var stream = new NetworkStream(client, ownsSocket: false);
            request = await Handshake.AcceptAsync(stream, secret, handlers.ContainsKey, timeout.Token).ConfigureAwait(false);
        }
        catch (Exception error) when (error is JobAuthenticationException or InvalidDataException)
        {
            WarnOnce(client, error);
        }
        catch (Exception error) when (error is IOException or SocketException or OperationCanceledException or ObjectDisposedException)
        {
            logger.LogDebug("Listening at {Endpoint}: a handshake was not finished: {Reason}", Endpoint, error.Message);
        }

        if (!Release(place) || request is not { } accepted)
        {
            client.Dispose();
            return;
        }

        try
        {
            await client.SendAsync(Handshake.Admitted).ConfigureAwait(false);
            AuthenticatedConnection.Watch(client, accepted.Purpose);
            if (secret.Encrypts) client = EncryptedChannel.Start(client, accepted.Keys.ToClient, accepted.Keys.ToListener);
            await handlers[accepted.Purpose](client, accepted.Hello).ConfigureAwait(false);
        }
        catch (Exception error)
        {
            client.Dispose();
            logger.LogWarning(error, "Listening at {Endpoint}: a connection of purpose {Purpose} failed", Endpoint, accepted.Purpose);
        }
    }

    private LinkedListNode<Socket>? Admit(Socket client)
    {
        lock (unauthenticated)
        {
            if (stopping)
            {
                client.Dispose();
                return null;
            }

            if (unauthenticated.Count == MaximumUnauthenticated)
            {
                unauthenticated.First!.Value.Dispose();
                unauthenticated.RemoveFirst();
            }

            return unauthenticated.AddLast(client);
        }
    }

    /// <returns>False when the connection was dropped in the meantime.</returns>
    private bool Release(LinkedListNode<Socket> place)
    {
        lock (unauthenticated)
        {
            if (place.List is null) return false;
            unauthenticated.Remove(place);
            return true;
        }
    }

    private void WarnOnce(Socket client, Exception error)
    {
        if (AddressOf(client) is not { } remote) return;
        lock (warned)
        {
            if (warned.Count == MaximumWarnings || !warned.Add(remote.Address)) return;
        }

        logger.LogWarning(
            "Listening at {Endpoint}: refused the connection from {Remote}: {Reason} (further ones from that host are not logged)",
            Endpoint, remote, error.Message);
    }

    private static IPEndPoint? AddressOf(Socket client)
    {
        try
        {
            return client.RemoteEndPoint as IPEndPoint;
        }
        catch (Exception error) when (error is SocketException or ObjectDisposedException)
        {
            return null;
        }
    }

    private static string ExplainBindFailure(IPEndPoint endpoint, SocketException error) => error.SocketErrorCode switch
    {
        SocketError.AddressAlreadyInUse =>
            $"port {endpoint.Port} at {endpoint.Address} is in use; choose another port (MASTER_PORT, or 0 to let the system choose), or end the process that holds it (ss -ltnp 'sport = :{endpoint.Port}')",
        SocketError.AddressNotAvailable =>
            $"cannot listen at {endpoint}: no network interface of this host has the address {endpoint.Address}; run this process on the host that has it, or correct MASTER_ADDR",
        SocketError.AccessDenied =>
            $"cannot listen at {endpoint}: permission denied; choose a port of 1024 or above",
        _ => $"cannot listen at {endpoint}: {error.Message}",
    };
}

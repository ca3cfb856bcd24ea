using System.Net;
using System.Net.Sockets;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;

namespace Skein.Collectives.Rendezvous;

/// <summary>
/// Serves a store in this process's memory to the job's ranks, who connect with <see cref="TcpStore"/>. Hosted by rank
/// 0 or by the launcher; the values live as long as it does.
/// </summary>
public sealed class TcpStoreServer : IAsyncDisposable
{
    private readonly InProcessStore store = new();
    private readonly HashSet<FrameConnection> connections = [];
    private readonly ILogger logger;
    private bool disposed;

    private TcpStoreServer(AuthenticatedListener listener, ILogger logger)
    {
        Listener = listener;
        this.logger = logger;
        listener.Register(ConnectionPurpose.Store, ServeAsync);
    }

    /// <summary>The address that it listens at, with the port that the system chose if none was asked for.</summary>
    public IPEndPoint Endpoint => Listener.Endpoint;

    /// <summary>The store itself, for its host: no connection is needed. The server disposes it.</summary>
    public Store Store => store;

    /// <summary>The store's listener, so that its host can serve other purposes at the same address.</summary>
    internal AuthenticatedListener Listener { get; }

    /// <summary>Starts to serve; port 0 lets the system choose.</summary>
    /// <param name="endpoint">Where to listen; the IPv6 any-address also accepts IPv4.</param>
    /// <param name="secret">What every client must know.</param>
    /// <param name="logger">Where refused clients are reported.</param>
    /// <exception cref="RendezvousException">The address cannot be listened at, for example because the port is in use.</exception>
    public static TcpStoreServer Start(IPEndPoint endpoint, JobSecret secret, ILogger? logger = null)
    {
        ArgumentNullException.ThrowIfNull(endpoint);
        ArgumentNullException.ThrowIfNull(secret);
        logger ??= NullLogger.Instance;
        return new TcpStoreServer(AuthenticatedListener.Start(endpoint, secret, logger), logger);
    }

    /// <summary>Closes every connection: the clients' waiting calls fail at once.</summary>
    public async ValueTask DisposeAsync()
    {
        await Listener.DisposeAsync().ConfigureAwait(false);
        FrameConnection[] open;
        lock (connections)
        {
            disposed = true;
            open = [.. connections];
        }

        await Task.WhenAll(open.Select(connection => connection.DisposeAsync().AsTask())).ConfigureAwait(false);
        await store.DisposeAsync().ConfigureAwait(false);
    }

    private async Task ServeAsync(Socket socket, ReadOnlyMemory<byte> hello)
    {
        await using var connection = new FrameConnection(socket, StoreRequest.MaximumLength);
        using var closed = new CancellationTokenSource();
        lock (connections)
        {
            if (disposed) return;
            connections.Add(connection);
        }

        try
        {
            while (await connection.ReceiveAsync().ConfigureAwait(false) is { } content)
            {
                StoreRequest request = StoreRequest.Decode(content);
                Task reply = ReplyAsync(connection, request, closed.Token);

                // Only a Get may wait; all else is answered before the next request is read, so that a client that
                // does not read its replies cannot pile them up here.
                if (request.Operation != StoreOperation.Get || reply.IsCompleted) await reply.ConfigureAwait(false);
            }
        }
        catch (InvalidDataException error)
        {
            logger.LogWarning("The store at {Endpoint} closed a connection: {Reason}", Endpoint, error.Message);
        }
        catch (Exception error) when (error is IOException or ObjectDisposedException)
        {
            // The client has ended, or the server ends.
            logger.LogDebug("The store at {Endpoint} closed a connection: {Reason}", Endpoint, error.Message);
        }
        finally
        {
            lock (connections) connections.Remove(connection);
            await closed.CancelAsync().ConfigureAwait(false);
        }
    }

    private async Task ReplyAsync(FrameConnection connection, StoreRequest request, CancellationToken closed)
    {
        try
        {
            StoreReply reply = await ExecuteAsync(request, closed).ConfigureAwait(false);
            await connection.SendAsync(reply.Encode()).ConfigureAwait(false);
        }
        catch (Exception error) when (request.Operation == StoreOperation.Get
            && error is OperationCanceledException or IOException or ObjectDisposedException)
        {
            // The client, who alone could be told, is gone.
        }
    }

    private async Task<StoreReply> ExecuteAsync(StoreRequest request, CancellationToken closed)
    {
        var done = new StoreReply(request.Id, StoreStatus.Done);
        try
        {
            switch (request.Operation)
            {
                case StoreOperation.Set:
                    await store.SetAsync(request.Key, request.Value, closed).ConfigureAwait(false);
                    return done;
                case StoreOperation.Get:
                    TimeSpan timeout = TimeSpan.FromMilliseconds(request.Number);
                    return done with { Value = await store.GetAsync(request.Key, timeout, closed).ConfigureAwait(false) };
                case StoreOperation.Add:
                    return done with { Number = await store.AddAsync(request.Key, request.Number, closed).ConfigureAwait(false) };
                case StoreOperation.CompareAndSet:
                    bool set = await store.CompareAndSetAsync(request.Key, request.Expected, request.Value, closed).ConfigureAwait(false);
                    return done with { Number = set ? 1 : 0 };
                default:
                    return done with { Number = await store.DeleteAsync(request.Key, closed).ConfigureAwait(false) ? 1 : 0 };
            }
        }
        catch (CollectiveTimeoutException)
        {
            return done with { Status = StoreStatus.TimedOut };
        }
        catch (InvalidOperationException error) when (error is not ObjectDisposedException)
        {
            return done with { Status = StoreStatus.NotAnInteger };
        }
        catch (ArgumentException error)
        {
            throw new InvalidDataException($"a request breaks the store's limits: {error.Message}", error);
        }
    }
}

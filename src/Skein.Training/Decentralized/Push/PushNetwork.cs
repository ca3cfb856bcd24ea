using System.Net;
using System.Net.Sockets;
using Skein.Collectives;
using Skein.Collectives.Rendezvous;

namespace Skein.Training.Decentralized;

/// <summary>
/// How one peer reaches the others and is reached by them, and which of them are lost. Addresses are in the job's store,
/// which rank 0 hosts unless the launcher does. Thread-safe.
/// </summary>
internal sealed class PushNetwork : IAsyncDisposable
{
    private static readonly TimeSpan LongestConnecting = TimeSpan.FromSeconds(10);

    private readonly TcpStoreServer? server;
    private readonly Store? store;
    private readonly AuthenticatedListener? listener;
    private readonly bool[] lost;

    private PushNetwork(ProcessGroupOptions options, TcpStoreServer? server, Store? store, AuthenticatedListener? listener)
    {
        Options = options;
        this.server = server;
        this.store = store;
        this.listener = listener;
        lost = new bool[options.WorldSize];
    }

    /// <summary>Raised on some thread when a peer was found to be lost.</summary>
    public event Action<int>? PeerLost;

    public ProcessGroupOptions Options { get; }

    public int Rank => Options.Rank;

    public int WorldSize => Options.WorldSize;

    /// <summary>Tells the store where this peer is. Does not wait for the others.</summary>
    /// <exception cref="SkeinException">The store was not reached, or this process cannot listen.</exception>
    public static async Task<PushNetwork> JoinAsync(ProcessGroupOptions options, CancellationToken cancellationToken)
    {
        if (options.WorldSize == 1) return new PushNetwork(options, null, null, null);
        if (options.RedisStore is not null || options.MasterPort == 0)
        {
            throw new RendezvousException("stochastic gradient push finds its peers through the store at MASTER_ADDR and MASTER_PORT: set both, and no SKEIN_REDIS_STORE");
        }

        JobSecret secret = options.Secret ?? throw new JobAuthenticationException(
            $"rank {options.Rank} of {options.WorldSize} has no job secret: start the job with 'skein launch', or set SKEIN_JOB_SECRET to the same value for every rank");
        IPAddress here = await Job.BindAddressAsync(options, cancellationToken).ConfigureAwait(false);
        TcpStoreServer? server = null;
        Store? store = null;
        AuthenticatedListener? listener = null;
        try
        {
            if (options.Rank == 0 && !options.StoreHostedByLauncher) server = TcpStoreServer.Start(new IPEndPoint(here, options.MasterPort), secret, options.Logger);
            store = await TcpStore.ConnectAsync(options.MasterAddress, options.MasterPort, secret, options.Timeout, cancellationToken).ConfigureAwait(false);
            listener = AuthenticatedListener.Start(new IPEndPoint(here, 0), secret, options.Logger);
            var address = new RankAddress("", listener.Endpoint.Address.ToString(), listener.Endpoint.Port);
            await store.SetAsync(Key(options, options.Rank), address.Encode(), cancellationToken).ConfigureAwait(false);
            return new PushNetwork(options, server, store, listener);
        }
        catch
        {
            if (listener is not null) await listener.DisposeAsync().ConfigureAwait(false);
            if (store is not null) await store.DisposeAsync().ConfigureAwait(false);
            if (server is not null) await server.DisposeAsync().ConfigureAwait(false);
            throw;
        }
    }

    /// <summary>From now on connections of peers go to <paramref name="handler"/>, which owns the socket.</summary>
    /// <param name="length">The number of this peer's parameters.</param>
    /// <param name="handler">Serves one connection to its end.</param>
    public void Accept(int length, Func<PushHello, Socket, Task> handler) =>
        listener?.Register(ConnectionPurpose.Gossip, (socket, hello) => handler(PushHello.Decode(hello.Span, Rank, WorldSize, length), socket));

    /// <summary>Connects to a peer that has joined, or for a meeting waits for rank 0 as long as any wait may take.</summary>
    /// <exception cref="SkeinException">It was not reached.</exception>
    public async Task<Socket> ConnectAsync(int peer, PushHello hello, CancellationToken cancellationToken)
    {
        TimeSpan limit = hello.Kind == PushLinkKind.Meeting || Options.Timeout < LongestConnecting ? Options.Timeout : LongestConnecting;
        try
        {
            // Asked each time: a peer may have come back at another address.
            RankAddress address = RankAddress.Decode(await store!.GetAsync(Key(Options, peer), limit, cancellationToken).ConfigureAwait(false));
            return await AuthenticatedConnection.ConnectAsync(
                address.Host, address.Port, Options.Secret!, ConnectionPurpose.Gossip, hello.Encode(), limit, cancellationToken).ConfigureAwait(false);
        }
        catch (Exception error) when (error is CollectiveTimeoutException or RendezvousException)
        {
            throw new RendezvousException($"rank {Rank} waited {limit.TotalSeconds:0.###} s for rank {peer} to accept a connection: {error.Message}", error);
        }
    }

    public bool IsLost(int peer) => Volatile.Read(ref lost[peer]);

    public void MarkLost(int peer)
    {
        if (Interlocked.Exchange(ref lost[peer], true)) return;
        PeerLost?.Invoke(peer);
    }

    /// <summary>A peer spoke, which may have come back.</summary>
    public void MarkAlive(int peer) => Volatile.Write(ref lost[peer], false);

    public async ValueTask DisposeAsync()
    {
        if (listener is not null) await listener.DisposeAsync().ConfigureAwait(false);
        if (store is not null) await store.DisposeAsync().ConfigureAwait(false);
        if (server is not null) await server.DisposeAsync().ConfigureAwait(false);
    }

    private static string Key(ProcessGroupOptions options, int rank) => $"{options.JobId}/push/{rank}";
}

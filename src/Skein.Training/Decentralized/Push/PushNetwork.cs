using System.Buffers.Binary;
using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using Skein.Collectives;
using Skein.Collectives.Rendezvous;

namespace Skein.Training.Decentralized;

/// <summary>
/// How one peer reaches the others and is reached by them, and which of them are lost. Addresses are in the job's store,
/// which rank 0 hosts unless the launcher does. A rank may be started again: the store counts its processes, its
/// incarnations, and a later one takes the place of those before. Thread-safe.
/// </summary>
internal sealed class PushNetwork : IAsyncDisposable
{
    private static readonly TimeSpan LongestConnecting = TimeSpan.FromSeconds(10);
    private static readonly TimeSpan LongestFarewell = TimeSpan.FromSeconds(1);

    private readonly TcpStoreServer? server;
    private readonly Store? store;
    private readonly AuthenticatedListener? listener;
    private readonly Lock gate = new();
    private readonly bool[] lost;
    private readonly int[] incarnations;

    private PushNetwork(ProcessGroupOptions options, int incarnation, TcpStoreServer? server, Store? store, AuthenticatedListener? listener)
    {
        Options = options;
        Incarnation = incarnation;
        this.server = server;
        this.store = store;
        this.listener = listener;
        lost = new bool[options.WorldSize];
        incarnations = new int[options.WorldSize];
    }

    /// <summary>Raised on some thread when a peer was found to be lost.</summary>
    public event Action<int>? PeerLost;

    public ProcessGroupOptions Options { get; }

    public int Rank => Options.Rank;

    public int WorldSize => Options.WorldSize;

    /// <summary>Which process of its rank this is: 1, and one more each time that the rank was started again.</summary>
    public int Incarnation { get; }

    /// <summary>Tells the store where this peer is. Does not wait for the others.</summary>
    /// <exception cref="SkeinException">The store was not reached, or this process cannot listen.</exception>
    public static async Task<PushNetwork> JoinAsync(ProcessGroupOptions options, CancellationToken cancellationToken)
    {
        if (options.WorldSize == 1) return new PushNetwork(options, 1, null, null, null);
        if (options.RedisStore is not null || options.MasterPort == 0)
        {
            throw new RendezvousException("stochastic gradient push finds its peers through the store at MASTER_ADDR and MASTER_PORT: set both, and no SKEIN_REDIS_STORE");
        }

        JobSecret secret = options.Secret ?? throw new JobAuthenticationException(
            $"rank {options.Rank} of {options.WorldSize} has no job secret: start the job with 'skein launch', or set SKEIN_JOB_SECRET to the same value for every rank");
        (IPAddress here, options) = await Job.FindAddressAsync(options, cancellationToken).ConfigureAwait(false);
        TcpStoreServer? server = null;
        Store? store = null;
        AuthenticatedListener? listener = null;
        try
        {
            if (options.Rank == 0 && !options.StoreHostedByLauncher) server = TcpStoreServer.Start(new IPEndPoint(here, options.MasterPort), secret, options.Logger);
            store = await TcpStore.ConnectAsync(options.MasterAddress, options.MasterPort, secret, options.Timeout, cancellationToken).ConfigureAwait(false);
            listener = AuthenticatedListener.Start(new IPEndPoint(here, 0), secret, options.Logger);
            int incarnation = checked((int)await store.AddAsync($"{Key(options, options.Rank)}/incarnation", 1, cancellationToken).ConfigureAwait(false));
            var address = new RankAddress("", listener.Endpoint.Address.ToString(), listener.Endpoint.Port);
            await store.SetAsync(Key(options, options.Rank), Encode(incarnation, address), cancellationToken).ConfigureAwait(false);
            return new PushNetwork(options, incarnation, server, store, listener);
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
    /// <returns>The connection, and which process of that rank it goes to.</returns>
    /// <exception cref="SkeinException">It was not reached.</exception>
    public async Task<(Socket Socket, int Incarnation)> ConnectAsync(int peer, PushLinkKind kind, int length, CancellationToken cancellationToken)
    {
        byte[] hello = new PushHello(kind, Rank, Incarnation, length).Encode();
        TimeSpan limit = kind == PushLinkKind.Meeting || Options.Timeout < LongestConnecting ? Options.Timeout : LongestConnecting;
        for (long start = Stopwatch.GetTimestamp(); ;)
        {
            TimeSpan rest = limit - Stopwatch.GetElapsedTime(start);
            try
            {
                // Asked each time: a peer may have come back at another address, and rank 0 may have ended.
                byte[] entry = await store!.GetAsync(Key(Options, peer), rest > TimeSpan.Zero ? rest : TimeSpan.Zero, cancellationToken).ConfigureAwait(false);
                if (entry.Length == 0) break;
                (int incarnation, RankAddress address) = Decode(entry);
                return (await AuthenticatedConnection.ConnectAsync(
                    address.Host, address.Port, Options.Secret!, ConnectionPurpose.Gossip, hello, rest < LongestConnecting ? rest : LongestConnecting, cancellationToken).ConfigureAwait(false), incarnation);
            }
            catch (Exception error) when (error is CollectiveTimeoutException or RendezvousException)
            {
                if (error is RendezvousException && rest > LongestConnecting) continue;
                throw new RendezvousException($"rank {Rank} waited {limit.TotalSeconds:0.###} s for rank {peer} to accept a connection: {error.Message}", error);
            }
        }

        throw new RendezvousException($"rank {Rank} came when rank {peer} had ended, and training with it");
    }

    public bool IsLost(int peer)
    {
        lock (gate) return lost[peer];
    }

    /// <summary>The latest process of a rank that this peer has heard of; 0 when it has not of any.</summary>
    public int IncarnationOf(int peer)
    {
        lock (gate) return incarnations[peer];
    }

    /// <summary>One process of a rank is lost, which is nothing new when a later one has taken its place.</summary>
    public void MarkLost(int peer, int incarnation)
    {
        lock (gate)
        {
            if (incarnation < incarnations[peer] || lost[peer]) return;
            incarnations[peer] = incarnation;
            lost[peer] = true;
        }

        PeerLost?.Invoke(peer);
    }

    /// <summary>A peer spoke, or rank 0 said that it is there.</summary>
    /// <returns>False when a later process has taken its place.</returns>
    public bool MarkAlive(int peer, int incarnation)
    {
        lock (gate)
        {
            if (incarnation < incarnations[peer]) return false;
            incarnations[peer] = incarnation;
            lost[peer] = false;
            return true;
        }
    }

    public async ValueTask DisposeAsync()
    {
        if (Rank == 0 && server is null && store is not null) await SayFarewellAsync(store).ConfigureAwait(false);
        if (listener is not null) await listener.DisposeAsync().ConfigureAwait(false);
        if (store is not null) await store.DisposeAsync().ConfigureAwait(false);
        if (server is not null) await server.DisposeAsync().ConfigureAwait(false);
    }

    /// <summary>Who comes back after rank 0 has ended need not wait for it.</summary>
    private async Task SayFarewellAsync(Store store)
    {
        using var limit = new CancellationTokenSource(LongestFarewell);
        try
        {
            await store.SetAsync(Key(Options, Rank), ReadOnlyMemory<byte>.Empty, limit.Token).ConfigureAwait(false);
        }
        catch (Exception error) when (error is SkeinException or OperationCanceledException)
        {
            // With the store nobody can come back either.
        }
    }

    private static string Key(ProcessGroupOptions options, int rank) => $"{options.JobId}/push/{rank}";

    private static byte[] Encode(int incarnation, RankAddress address)
    {
        var number = new byte[sizeof(int)];
        BinaryPrimitives.WriteInt32LittleEndian(number, incarnation);
        return [.. number, .. address.Encode()];
    }

    private static (int Incarnation, RankAddress Address) Decode(byte[] entry) => entry.Length > sizeof(int)
        ? (BinaryPrimitives.ReadInt32LittleEndian(entry), RankAddress.Decode(entry[sizeof(int)..]))
        : throw new RendezvousException($"the store holds an address of {entry.Length} bytes; is another version of Skein in this job?");
}

using System.Collections.Concurrent;
using System.Net.Sockets;

namespace Skein.Collectives.Rendezvous;

/// <summary>A client of a <see cref="TcpStoreServer"/>: one authenticated connection with any number of requests under way.</summary>
public sealed class TcpStore : Store
{
    // How much later than its own limit a busy server may say that nobody set a key.
    private static readonly TimeSpan AnswerGrace = TimeSpan.FromSeconds(5);

    private readonly FrameConnection connection;
    private readonly string address;
    private readonly TimeSpan answerTimeout;
    private readonly ConcurrentDictionary<int, TaskCompletionSource<StoreReply>> pending = new();
    private readonly Task receiving;
    private volatile Exception? lost;
    private int lastId;

    private TcpStore(Socket socket, string address, TimeSpan answerTimeout)
    {
        connection = new FrameConnection(socket, StoreReply.MaximumLength);
        this.address = address;
        this.answerTimeout = answerTimeout;
        receiving = Task.Run(ReceiveAsync);
    }

    /// <summary>Connects, trying again until <paramref name="timeout"/> while the server has not started yet.</summary>
    /// <param name="host">The server's name or address.</param>
    /// <param name="port">The server's port.</param>
    /// <param name="secret">The job's secret.</param>
    /// <param name="timeout">For connecting, and later the longest that the server may take to answer.</param>
    /// <param name="cancellationToken">Ends the attempts early.</param>
    /// <exception cref="JobAuthenticationException">The server's secret differs.</exception>
    /// <exception cref="RendezvousException">The server was not reached in time.</exception>
    public static async Task<TcpStore> ConnectAsync(
        string host, int port, JobSecret secret, TimeSpan timeout, CancellationToken cancellationToken = default)
    {
        ArgumentException.ThrowIfNullOrEmpty(host);
        ArgumentNullException.ThrowIfNull(secret);
        CheckTimeout(timeout);
        Socket socket = await AuthenticatedConnection.ConnectAsync(
            host, port, secret, ConnectionPurpose.Store, ReadOnlyMemory<byte>.Empty, timeout, cancellationToken).ConfigureAwait(false);
        return new TcpStore(socket, AuthenticatedConnection.Name(host, port), timeout);
    }

    /// <inheritdoc/>
    /// <exception cref="PeerLostException">The server ended.</exception>
    public override Task SetAsync(string key, ReadOnlyMemory<byte> value, CancellationToken cancellationToken = default)
    {
        CheckKey(key);
        CheckValue(key, value);
        return AskAsync(new StoreRequest(StoreOperation.Set, NextId(), key, Value: value), answerTimeout, cancellationToken);
    }

    /// <inheritdoc/>
    /// <exception cref="PeerLostException">The server ended.</exception>
    public override async Task<byte[]> GetAsync(string key, TimeSpan timeout, CancellationToken cancellationToken = default)
    {
        CheckKey(key);
        CheckTimeout(timeout);
        long milliseconds = (long)Math.Ceiling(timeout.TotalMilliseconds);
        TimeSpan limit = (timeout > answerTimeout ? timeout : answerTimeout) + AnswerGrace;
        StoreReply reply = await AskAsync(
            new StoreRequest(StoreOperation.Get, NextId(), key, milliseconds), limit, cancellationToken).ConfigureAwait(false);
        return reply.Status == StoreStatus.TimedOut
            ? throw NobodySet(key, timeout, $"the store at {address}")
            : reply.Value.ToArray();
    }

    /// <inheritdoc/>
    /// <exception cref="PeerLostException">The server ended.</exception>
    public override async Task<long> AddAsync(string key, long delta, CancellationToken cancellationToken = default)
    {
        CheckKey(key);
        StoreReply reply = await AskAsync(
            new StoreRequest(StoreOperation.Add, NextId(), key, delta), answerTimeout, cancellationToken).ConfigureAwait(false);
        return reply.Status == StoreStatus.NotAnInteger ? throw NotAnInteger(key) : reply.Number;
    }

    /// <inheritdoc/>
    /// <exception cref="PeerLostException">The server ended.</exception>
    public override async Task<bool> CompareAndSetAsync(
        string key, ReadOnlyMemory<byte>? expected, ReadOnlyMemory<byte> desired, CancellationToken cancellationToken = default)
    {
        CheckKey(key);
        CheckValue(key, desired);
        if (expected is { } bytes) CheckValue(key, bytes);
        StoreReply reply = await AskAsync(
            new StoreRequest(StoreOperation.CompareAndSet, NextId(), key, 0, expected, desired), answerTimeout, cancellationToken).ConfigureAwait(false);
        return reply.Number == 1;
    }

    /// <inheritdoc/>
    /// <exception cref="PeerLostException">The server ended.</exception>
    public override async Task<bool> DeleteAsync(string key, CancellationToken cancellationToken = default)
    {
        CheckKey(key);
        StoreReply reply = await AskAsync(
            new StoreRequest(StoreOperation.Delete, NextId(), key), answerTimeout, cancellationToken).ConfigureAwait(false);
        return reply.Number == 1;
    }

    /// <inheritdoc/>
    public override async ValueTask DisposeAsync()
    {
        lost ??= new ObjectDisposedException(nameof(TcpStore));
        await connection.DisposeAsync().ConfigureAwait(false);
        await receiving.ConfigureAwait(false);
    }

    private int NextId() => Interlocked.Increment(ref lastId);

    private async Task<StoreReply> AskAsync(StoreRequest request, TimeSpan limit, CancellationToken cancellationToken)
    {
        var answer = new TaskCompletionSource<StoreReply>(TaskCreationOptions.RunContinuationsAsynchronously);
        pending[request.Id] = answer;
        try
        {
            // After the entry was added: whoever sets it fails all entries next.
            if (lost is { } error) throw error;
            _ = connection.SendAsync(request.Encode());
            return await answer.Task.WaitAsync(limit, cancellationToken).ConfigureAwait(false);
        }
        catch (TimeoutException error)
        {
            throw new CollectiveTimeoutException(
                $"the store at {address} did not answer within {limit.TotalSeconds:0.###} s ({request.Operation} of the key '{request.Key}'); " +
                "the process that hosts it hangs, or the network lost it", error);
        }
        finally
        {
            pending.TryRemove(request.Id, out _);
        }
    }

    private async Task ReceiveAsync()
    {
        try
        {
            while (await connection.ReceiveAsync().ConfigureAwait(false) is { } content)
            {
                StoreReply reply = StoreReply.Decode(content);
                if (pending.TryGetValue(reply.Id, out TaskCompletionSource<StoreReply>? answer)) answer.TrySetResult(reply);
            }

            lost ??= new PeerLostException(
                $"the store at {address} was lost: its connection closed (the process that hosts it ended or was killed)");
        }
        catch (InvalidDataException error)
        {
            lost ??= new PeerLostException($"the store at {address} was lost: it sent a malformed reply: {error.Message}", error);
        }

        foreach (TaskCompletionSource<StoreReply> answer in pending.Values) answer.TrySetException(lost);
    }
}

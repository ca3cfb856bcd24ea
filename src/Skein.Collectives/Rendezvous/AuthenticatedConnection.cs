using System.Diagnostics;
using System.Net;
using System.Net.Sockets;

namespace Skein.Collectives.Rendezvous;

/// <summary>Connects to an <see cref="AuthenticatedListener"/> of the same job.</summary>
internal static class AuthenticatedConnection
{
    private static readonly TimeSpan FirstDelay = TimeSpan.FromMilliseconds(20);
    private static readonly TimeSpan LongestDelay = TimeSpan.FromMilliseconds(500);

    // Covers three lost requests; who listens for certain and cannot be reached by then has an address of another network.
    private static readonly TimeSpan LongestUnreachable = TimeSpan.FromSeconds(25);

    /// <summary>
    /// Connects, and proves to each other that both sides know the secret. Until <paramref name="timeout"/> has passed,
    /// keeps trying while the listener does not exist, does not answer, drops this client unadmitted or does not serve
    /// <paramref name="purpose"/> yet; a rank, which has said where it listens, for at most 25 seconds while there is no connection at all.
    /// The listener's handler gets <paramref name="hello"/>, at most <see cref="Handshake.MaximumHelloLength"/> bytes.
    /// </summary>
    /// <returns>A connected socket without delay (Nagle), which the caller owns.</returns>
    /// <exception cref="JobAuthenticationException">The secrets differ.</exception>
    /// <exception cref="RendezvousException">Nobody was reached in time, or it is not a Skein job.</exception>
    public static async Task<Socket> ConnectAsync(
        string host, int port, JobSecret secret, byte purpose, ReadOnlyMemory<byte> hello, TimeSpan timeout,
        CancellationToken cancellationToken = default)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(hello.Length, Handshake.MaximumHelloLength);
        string address = Name(host, port);
        using var deadline = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        TimeSpan limit = IsKnownToListen(purpose) && timeout > LongestUnreachable ? LongestUnreachable : timeout;
        deadline.CancelAfter(limit);
        long start = Stopwatch.GetTimestamp();
        TimeSpan delay = FirstDelay;
        Exception? lastError = null;
        for (int attempts = 1; ; attempts++)
        {
            try
            {
                return await TryAsync(host, port, address, secret, purpose, hello, Connected, deadline.Token).ConfigureAwait(false);
            }
            catch (InvalidDataException error)
            {
                throw new RendezvousException(
                    $"another program listens at {address}: {error.Message}; check MASTER_ADDR and MASTER_PORT", error);
            }
            catch (Exception error) when (error is SocketException or IOException or TimeoutException)
            {
                // A first attempt cut short by the deadline says less than an earlier one that was answered.
                if (lastError is null || !deadline.IsCancellationRequested) lastError = error;
            }

            cancellationToken.ThrowIfCancellationRequested();
            try
            {
                await Task.Delay(delay, deadline.Token).ConfigureAwait(false);
            }
            catch (OperationCanceledException) when (!cancellationToken.IsCancellationRequested)
            {
                throw new RendezvousException(
                    $"could not reach {address} within {limit.TotalSeconds:0.###} s, in {attempts} attempts; the last one failed with: {lastError.Message}. " +
                    "Check that the process that listens there is running, that the address is right, and that no firewall blocks it",
                    lastError);
            }

            delay = delay * 2 < LongestDelay ? delay * 2 : LongestDelay;
        }

        void Connected()
        {
            if (limit == timeout) return;
            limit = timeout;
            TimeSpan rest = timeout - Stopwatch.GetElapsedTime(start);
            deadline.CancelAfter(rest > TimeSpan.Zero ? rest : TimeSpan.Zero);
        }
    }

    /// <summary>How an address is written in messages: IPv6 addresses in brackets.</summary>
    public static string Name(string host, int port) => host.Contains(':') ? $"[{host}]:{port}" : $"{host}:{port}";

    /// <summary>No delay (Nagle), and probes that find within 25 s that the other host vanished.</summary>
    public static void Configure(Socket socket)
    {
        socket.NoDelay = true;
        socket.SetSocketOption(SocketOptionLevel.Socket, SocketOptionName.KeepAlive, true);
        socket.SetSocketOption(SocketOptionLevel.Tcp, SocketOptionName.TcpKeepAliveTime, 10);
        socket.SetSocketOption(SocketOptionLevel.Tcp, SocketOptionName.TcpKeepAliveInterval, 5);
        socket.SetSocketOption(SocketOptionLevel.Tcp, SocketOptionName.TcpKeepAliveRetryCount, 3);
    }

    /// <summary>
    /// Keep-alive probes are not sent while data is unacknowledged; this bounds that case too (TCP_USER_TIMEOUT). It also ends
    /// a connection whose other side does not read, so it is for those on which both sides always do.
    /// </summary>
    public static void Watch(Socket socket, byte purpose)
    {
        const int ProtocolTcp = 6, UserTimeout = 18;
        if (purpose is not (ConnectionPurpose.Store or ConnectionPurpose.Lifeline) || !OperatingSystem.IsLinux()) return;
        socket.SetRawSocketOption(ProtocolTcp, UserTimeout, BitConverter.GetBytes(25_000));
    }

    // Ranks publish their addresses once they listen there; a store may be waited for before its host has started.
    private static bool IsKnownToListen(byte purpose) => purpose is ConnectionPurpose.Lifeline or ConnectionPurpose.Link;

    private static async Task<Socket> TryAsync(
        string host, int port, string address, JobSecret secret, byte purpose, ReadOnlyMemory<byte> hello, Action connected,
        CancellationToken deadline)
    {
        using var limit = CancellationTokenSource.CreateLinkedTokenSource(deadline);
        limit.CancelAfter(Handshake.DefaultTimeout);
        Socket? socket = null;
        try
        {
            socket = await OpenAsync(host, port, limit.Token).ConfigureAwait(false);
            connected();
            Configure(socket);
            await using var stream = new NetworkStream(socket, ownsSocket: false);
            if (await Handshake.ConnectAsync(stream, secret, purpose, hello, address, limit.Token).ConfigureAwait(false) is { } keys)
            {
                // Not within the limit of this attempt: who is admitted and no longer there counts as lost.
                await Handshake.WaitForAdmissionAsync(stream, deadline).ConfigureAwait(false);
                Watch(socket, purpose);
                return secret.Encrypts ? EncryptedChannel.Start(socket, keys.ToListener, keys.ToClient) : socket;
            }

            throw new IOException($"it serves the job, but not (yet) connections of purpose {purpose}");
        }
        catch (OperationCanceledException error)
        {
            socket?.Dispose();
            throw new TimeoutException(
                socket is not null ? "connected, but it did not finish the handshake" : "no answer to the connection request", error);
        }
        catch
        {
            socket?.Dispose();
            throw;
        }
    }

    private static async Task<Socket> OpenAsync(string host, int port, CancellationToken cancellationToken)
    {
        SocketException? refusal = null;
        foreach (IPAddress candidate in await ResolveAsync(host, cancellationToken).ConfigureAwait(false))
        {
            var socket = new Socket(candidate.AddressFamily, SocketType.Stream, ProtocolType.Tcp);
            try
            {
                await socket.ConnectAsync(candidate, port, cancellationToken).ConfigureAwait(false);

                // On loopback a free ephemeral port may be given to this very socket, which then is connected to
                // itself and would keep the port from the listener that is still to come.
                if (!socket.LocalEndPoint!.Equals(socket.RemoteEndPoint)) return socket;
                refusal = new SocketException((int)SocketError.ConnectionRefused);
                socket.Dispose();
            }
            catch (SocketException error)
            {
                socket.Dispose();
                refusal = error;
            }
            catch
            {
                socket.Dispose();
                throw;
            }
        }

        throw refusal ?? new SocketException((int)SocketError.HostNotFound);
    }

    // Of several names, separated by commas, some may be unknown here.
    private static async Task<List<IPAddress>> ResolveAsync(string hosts, CancellationToken cancellationToken)
    {
        List<IPAddress> found = [];
        SocketException? unknown = null;
        foreach (string host in hosts.Split(','))
        {
            try
            {
                found.AddRange(await Dns.GetHostAddressesAsync(host, cancellationToken).ConfigureAwait(false));
            }
            catch (SocketException error)
            {
                unknown = error;
            }
        }

        return found.Count > 0 || unknown is null ? found : throw unknown;
    }
}

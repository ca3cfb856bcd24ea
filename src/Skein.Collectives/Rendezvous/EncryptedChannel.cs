using System.Buffers.Binary;
using System.Collections.Concurrent;
using System.Diagnostics;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using System.Security.Cryptography;

namespace Skein.Collectives.Rendezvous;

/// <summary>The keys of one connection, one for each direction; both sides derive them from their handshake.</summary>
internal sealed record TrafficKeys(byte[] ToListener, byte[] ToClient);

/// <summary>
/// Carries a connection's bytes through AES-256-GCM. Its owner gets one end of a pair of local sockets and uses it as it would
/// use the connection; at the other end the bytes are sealed into records and opened again, each under a number that
/// counts up. So nothing can be read, changed, left out, repeated or put elsewhere between the hosts.
/// </summary>
internal sealed class EncryptedChannel : IDisposable
{
    private const int HeaderLength = sizeof(int);
    private const int TagLength = 16;
    private const int NonceLength = 12;
    private const int LongestRecord = 64 * 1024;
    private const int StackBytes = 256 * 1024;

    // How long the other side may keep a connection half open that its owner here has closed.
    private static readonly TimeSpan HalfOpenLimit = TimeSpan.FromSeconds(30);
    private static readonly TimeSpan ExitLimit = TimeSpan.FromSeconds(1);
    private static readonly ConcurrentDictionary<EncryptedChannel, bool> Open = new();

    private readonly Socket network;
    private readonly Socket inner;
    private readonly AesGcm sender;
    private readonly AesGcm receiver;
    private volatile bool sealing;
    private int ended;

    // What was written just before a process ends, such as its goodbye, would else be lost in between.
    static EncryptedChannel() => AppDomain.CurrentDomain.ProcessExit += static (_, _) =>
    {
        long start = Stopwatch.GetTimestamp();
        while (Stopwatch.GetElapsedTime(start) < ExitLimit && Open.Keys.Any(static channel => !channel.IsIdle)) Thread.Sleep(1);
    };

    private EncryptedChannel(Socket network, Socket inner, byte[] sendKey, byte[] receiveKey)
    {
        this.network = network;
        this.inner = inner;
        sender = new AesGcm(sendKey, TagLength);
        receiver = new AesGcm(receiveKey, TagLength);
    }

    // In this order: what is no longer in the socket is marked before it is taken out.
    private bool IsIdle
    {
        get
        {
            try
            {
                return inner.Available == 0 && !sealing;
            }
            catch (Exception error) when (error is SocketException or ObjectDisposedException)
            {
                return true;
            }
        }
    }

    /// <summary>Takes over a connection after its handshake.</summary>
    /// <param name="network">The connection, owned from now on.</param>
    /// <param name="sendKey">What this side seals with.</param>
    /// <param name="receiveKey">What the other side seals with.</param>
    /// <returns>What to use in its place; disposing it closes the connection.</returns>
    public static Socket Start(Socket network, byte[] sendKey, byte[] receiveKey)
    {
        (Socket inner, Socket outer) = Pair();
        network.Blocking = true;
        var channel = new EncryptedChannel(network, inner, sendKey, receiveKey);
        Open[channel] = true;

        // Threads of their own: an owner that blocks threads of the pool waits for these.
        new Thread(() => channel.Run(channel.Seal), StackBytes) { IsBackground = true, Name = "skein seal" }.Start();
        new Thread(() => channel.Run(channel.Unseal), StackBytes) { IsBackground = true, Name = "skein unseal" }.Start();
        return outer;
    }

    private void Run(Action direction)
    {
        bool broken = true;
        try
        {
            direction();
            broken = false;
        }
        catch (Exception error) when (error is SocketException or ObjectDisposedException or CryptographicException or InvalidDataException)
        {
            // The owner sees the end of the connection, as it would see that of one in the clear.
        }

        // One direction may end well before the other; when one breaks, both do.
        bool isLast = Interlocked.Increment(ref ended) == 2;
        if (broken || isLast) Dispose();
    }

    /// <summary>Ends the connection at both ends.</summary>
    public void Dispose()
    {
        inner.Dispose();
        network.Dispose();
        Open.TryRemove(this, out _);
        if (Volatile.Read(ref ended) < 2) return;
        sender.Dispose();
        receiver.Dispose();
    }

    private void Seal()
    {
        byte[] plain = GC.AllocateUninitializedArray<byte>(LongestRecord, pinned: true);
        byte[] record = GC.AllocateUninitializedArray<byte>(HeaderLength + LongestRecord + TagLength, pinned: true);
        for (long number = 0; ; number++)
        {
            inner.Poll(Timeout.InfiniteTimeSpan, SelectMode.SelectRead);
            sealing = true;
            int length = inner.Receive(plain);
            if (length == 0) break;
            Seal(sender, number, plain.AsSpan(0, length), record);
            SendAll(network, record.AsSpan(0, HeaderLength + length + TagLength));
            sealing = false;
        }

        network.Shutdown(SocketShutdown.Send);
        sealing = false;
        _ = Task.Delay(HalfOpenLimit).ContinueWith(_ => Dispose(), TaskScheduler.Default);
    }

    private void Unseal()
    {
        byte[] record = GC.AllocateUninitializedArray<byte>(HeaderLength + LongestRecord + TagLength, pinned: true);
        byte[] plain = GC.AllocateUninitializedArray<byte>(LongestRecord, pinned: true);
        for (long number = 0; ; number++)
        {
            if (!ReceiveAll(network, record.AsSpan(0, HeaderLength))) break;
            int length = BinaryPrimitives.ReadInt32LittleEndian(record);
            if (length is <= 0 or > LongestRecord) throw new InvalidDataException($"a record of {length} bytes was announced");
            if (!ReceiveAll(network, record.AsSpan(HeaderLength, length + TagLength))) break;
            Unseal(receiver, number, record, plain.AsSpan(0, length));
            SendAll(inner, plain.AsSpan(0, length));
        }

        inner.Shutdown(SocketShutdown.Send);
    }

    // The length is not secret, but bound to its record.
    private static void Seal(AesGcm key, long number, ReadOnlySpan<byte> plain, Span<byte> record)
    {
        BinaryPrimitives.WriteInt32LittleEndian(record, plain.Length);
        Span<byte> nonce = stackalloc byte[NonceLength];
        nonce.Clear();
        BinaryPrimitives.WriteInt64LittleEndian(nonce, number);
        key.Encrypt(
            nonce, plain, record.Slice(HeaderLength, plain.Length), record.Slice(HeaderLength + plain.Length, TagLength), record[..HeaderLength]);
    }

    private static void Unseal(AesGcm key, long number, ReadOnlySpan<byte> record, Span<byte> plain)
    {
        Span<byte> nonce = stackalloc byte[NonceLength];
        nonce.Clear();
        BinaryPrimitives.WriteInt64LittleEndian(nonce, number);
        key.Decrypt(
            nonce, record.Slice(HeaderLength, plain.Length), record.Slice(HeaderLength + plain.Length, TagLength), plain, record[..HeaderLength]);
    }

    private static void SendAll(Socket socket, ReadOnlySpan<byte> bytes)
    {
        while (!bytes.IsEmpty) bytes = bytes[socket.Send(bytes)..];
    }

    /// <returns>False when the connection has ended.</returns>
    private static bool ReceiveAll(Socket socket, Span<byte> bytes)
    {
        while (!bytes.IsEmpty)
        {
            int count = socket.Receive(bytes);
            if (count == 0) return false;
            bytes = bytes[count..];
        }

        return true;
    }

    private static (Socket, Socket) Pair()
    {
        const int Unix = 1, Stream = 1, CloseOnExec = 0x80000;
        int[] ends = new int[2];
        return SocketPair(Unix, OperatingSystem.IsLinux() ? Stream | CloseOnExec : Stream, 0, ends) == 0
            ? (new Socket(new SafeSocketHandle(ends[0], ownsHandle: true)), new Socket(new SafeSocketHandle(ends[1], ownsHandle: true)))
            : throw new SocketException(Marshal.GetLastPInvokeError());
    }

    [DllImport("libc", EntryPoint = "socketpair", SetLastError = true)]
    private static extern int SocketPair(int domain, int type, int protocol, int[] ends);
}

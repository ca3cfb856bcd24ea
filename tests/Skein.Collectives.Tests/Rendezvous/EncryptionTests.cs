using System.Net;
using System.Net.Sockets;
using System.Text;
using Skein.Collectives.Rendezvous;

namespace Skein.Collectives.Tests.Rendezvous;

/// <summary>What somebody between two hosts sees, and can do, when connections are encrypted.</summary>
public sealed class EncryptionTests : IAsyncLifetime
{
    private const byte Purpose = 42;
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);
    private static readonly string Words = string.Concat(Enumerable.Repeat("what only the two of them may read. ", 5000));

    private readonly JobSecret secret = JobSecret.Generate(encrypts: true);
    private readonly RecordingLogger log = new();
    private readonly TaskCompletionSource<Socket> arrived = new();
    private AuthenticatedListener listener = null!;

    public ValueTask InitializeAsync()
    {
        listener = AuthenticatedListener.Start(new IPEndPoint(IPAddress.Loopback, 0), secret, log);
        listener.Register(Purpose, (socket, _) =>
        {
            arrived.TrySetResult(socket);
            return Task.CompletedTask;
        });
        return ValueTask.CompletedTask;
    }

    public ValueTask DisposeAsync() => listener.DisposeAsync();

    [Fact]
    public async Task Bytes_arrive_whole_in_both_directions_and_none_of_them_in_the_clear()
    {
        await using var relay = new Relay(listener.Endpoint.Port);
        using Socket client = await ConnectAsync(relay.Port);
        using Socket server = await arrived.Task.WaitAsync(Patience);
        byte[] words = Encoding.ASCII.GetBytes(Words);
        Task sending = SendAsync(client, words), answering = SendAsync(server, words);
        Assert.Equal(words, await Sockets.ReadAsync(server, words.Length));
        Assert.Equal(words, await Sockets.ReadAsync(client, words.Length));
        await Task.WhenAll(sending, answering);
        Assert.InRange(relay.Seen.Length, 2 * words.Length, (2 * words.Length) + 20_000);
        Assert.Equal(-1, relay.Seen.AsSpan().IndexOf("may read"u8));
    }

    [Fact]
    public async Task The_end_of_one_side_reaches_the_other_after_all_bytes()
    {
        Socket client = await ConnectAsync(listener.Endpoint.Port);
        using Socket server = await arrived.Task.WaitAsync(Patience);
        await SendAsync(client, "goodbye"u8.ToArray());
        client.Dispose();
        Assert.Equal("goodbye"u8.ToArray(), await Sockets.ReadAsync(server, 7));
        Assert.Equal(0, await server.ReceiveAsync(new byte[1]).WaitAsync(Patience));
    }

    [Theory]
    [InlineData("change")]
    [InlineData("repeat")]
    [InlineData("leave out")]
    public async Task Bytes_that_were_tampered_with_on_the_way_end_the_connection_and_are_not_delivered(string what)
    {
        await using var relay = new Relay(listener.Endpoint.Port);
        using Socket client = await ConnectAsync(relay.Port);
        using Socket server = await arrived.Task.WaitAsync(Patience);
        await SendAsync(client, "first"u8.ToArray());
        Assert.Equal("first"u8.ToArray(), await Sockets.ReadAsync(server, 5));
        var tampered = new TaskCompletionSource();
        relay.Tamper = bytes =>
        {
            tampered.TrySetResult();
            return what switch
            {
                "change" => [.. bytes[..^1], (byte)(bytes[^1] ^ 1)],
                "repeat" => [.. bytes, .. bytes],
                _ => [],
            };
        };
        await SendAsync(client, "second"u8.ToArray());
        if (what == "repeat") Assert.Equal("second"u8.ToArray(), await Sockets.ReadAsync(server, 6));
        if (what == "leave out")
        {
            await tampered.Task.WaitAsync(Patience);
            relay.Tamper = null;
            await SendAsync(client, "third"u8.ToArray());
        }

        Assert.Equal(0, await server.ReceiveAsync(new byte[100]).WaitAsync(Patience));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task A_process_that_is_set_otherwise_is_refused_with_the_setting_on_both_sides(bool listenerEncrypts)
    {
        await using AuthenticatedListener other = AuthenticatedListener.Start(
            new IPEndPoint(IPAddress.Loopback, 0), secret.WithEncryption(listenerEncrypts), log);
        var error = await Assert.ThrowsAsync<JobAuthenticationException>(() => AuthenticatedConnection.ConnectAsync(
            "127.0.0.1", other.Endpoint.Port, secret.WithEncryption(!listenerEncrypts), Purpose, default, Patience));
        Assert.Contains($"SKEIN_ENCRYPTION is {(listenerEncrypts ? "off here and on" : "on here and off")} there", error.Message);
        Assert.Contains("set SKEIN_ENCRYPTION alike", (await log.WarningsAsync(1))[0]);
    }

    [Fact]
    public async Task A_group_over_encrypted_connections_computes_what_it_computes_in_the_clear()
    {
        float[][] sums = [await SumAsync(encrypts: false), await SumAsync(encrypts: true)];
        Assert.Equal(sums[0], sums[1]);
        Assert.Equal(3 * 7f, sums[1][7]);
    }

    private static async Task<float[]> SumAsync(bool encrypts)
    {
        ProcessGroup[] groups = await ProcessGroup.CreateInProcessAsync(
            3, new ProcessGroupOptions { Transport = TransportKind.Tcp, Encryption = encrypts, Timeout = TimeSpan.FromSeconds(30) });
        float[][] buffers = [.. groups.Select(_ => Enumerable.Range(0, 700_001).Select(static i => (float)i).ToArray())];
        await Task.WhenAll(groups.Select((group, rank) => Task.Run(() => group.AllReduce(buffers[rank].AsSpan()))));
        await Task.WhenAll(groups.Select(group => group.DisposeAsync().AsTask()));
        return buffers[2];
    }

    private Task<Socket> ConnectAsync(int port) =>
        AuthenticatedConnection.ConnectAsync("127.0.0.1", port, secret, Purpose, default, Patience);

    private static async Task SendAsync(Socket socket, ReadOnlyMemory<byte> bytes)
    {
        while (!bytes.IsEmpty) bytes = bytes[await socket.SendAsync(bytes)..];
    }

    /// <summary>Somebody between two hosts, who sees all and may change what the client sends.</summary>
    private sealed class Relay : IAsyncDisposable
    {
        private readonly TcpListener listener = new(IPAddress.Loopback, 0);
        private readonly MemoryStream seen = new();
        private readonly Task running;

        public Relay(int target)
        {
            listener.Start();
            running = RunAsync(target);
        }

        public int Port => ((IPEndPoint)listener.LocalEndpoint).Port;

        public byte[] Seen
        {
            get
            {
                lock (seen) return seen.ToArray();
            }
        }

        public Func<byte[], byte[]>? Tamper { get; set; }

        public async ValueTask DisposeAsync()
        {
            listener.Stop();
            await running;
        }

        private async Task RunAsync(int target)
        {
            using TcpClient left = await listener.AcceptTcpClientAsync();
            using var right = new TcpClient();
            left.NoDelay = right.NoDelay = true;
            await right.ConnectAsync(IPAddress.Loopback, target);
            await Task.WhenAny(
                CarryAsync(left.GetStream(), right.GetStream(), tampers: true), CarryAsync(right.GetStream(), left.GetStream(), tampers: false));
        }

        private async Task CarryAsync(NetworkStream from, NetworkStream to, bool tampers)
        {
            var buffer = new byte[1 << 16];
            try
            {
                while (await from.ReadAsync(buffer) is > 0 and var count)
                {
                    byte[] bytes = buffer[..count];
                    lock (seen) seen.Write(bytes);
                    await to.WriteAsync(tampers && Tamper is { } tamper ? tamper(bytes) : bytes);
                }
            }
            catch (IOException)
            {
                // One side has closed.
            }
        }
    }
}

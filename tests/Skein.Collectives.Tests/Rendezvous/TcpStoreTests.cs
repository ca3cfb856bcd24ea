using System.Net;
using System.Net.Sockets;
using Skein.Collectives.Rendezvous;

namespace Skein.Collectives.Tests.Rendezvous;

public sealed class TcpStoreTests : StoreContract
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);
    private readonly JobSecret secret = JobSecret.Generate();
    private TcpStoreServer server = null!;

    protected override async Task<(Store First, Store Second)> OpenAsync()
    {
        server = TcpStoreServer.Start(new IPEndPoint(IPAddress.Loopback, 0), secret);
        return (await ConnectAsync(), await ConnectAsync());
    }

    protected override ValueTask CloseAsync() => server.DisposeAsync();

    [Fact]
    public async Task When_the_server_ends_waiting_and_later_calls_fail_at_once()
    {
        await using TcpStore store = await ConnectAsync();
        Task<byte[]>[] waiting = [.. Enumerable.Range(0, 10).Select(i => store.GetAsync($"never/{i}", TimeSpan.FromHours(1)))];
        await store.SetAsync("key", new byte[1]);
        await server.DisposeAsync();
        foreach (Task<byte[]> wait in waiting)
        {
            var error = await Assert.ThrowsAsync<PeerLostException>(() => wait.WaitAsync(Patience));
            Assert.Contains($"the store at 127.0.0.1:{server.Endpoint.Port} was lost", error.Message);
        }

        await Assert.ThrowsAsync<PeerLostException>(() => store.SetAsync("key", new byte[1]).WaitAsync(Patience));
    }

    [Fact]
    public async Task Disposing_a_client_ends_its_waiting_calls()
    {
        TcpStore store = await ConnectAsync();
        Task<byte[]> waiting = store.GetAsync("never", TimeSpan.FromHours(1));
        await store.DisposeAsync();
        await Assert.ThrowsAsync<ObjectDisposedException>(() => waiting.WaitAsync(Patience));
        await Assert.ThrowsAsync<ObjectDisposedException>(() => store.AddAsync("key", 1));
    }

    [Fact]
    public void A_port_in_use_is_named()
    {
        int port = server.Endpoint.Port;
        var error = Assert.Throws<RendezvousException>(() => TcpStoreServer.Start(new IPEndPoint(IPAddress.Loopback, port), secret));
        Assert.Contains($"port {port}", error.Message);
        Assert.Contains("in use", error.Message);
    }

    [Fact]
    public void An_address_of_another_host_is_named()
    {
        var error = Assert.Throws<RendezvousException>(() => TcpStoreServer.Start(new IPEndPoint(IPAddress.Parse("192.0.2.1"), 0), secret));
        Assert.Contains("192.0.2.1", error.Message);
    }

    [Fact]
    public async Task A_client_may_start_before_the_server()
    {
        IPEndPoint endpoint = server.Endpoint;
        await server.DisposeAsync();
        Task<TcpStore> connecting = TcpStore.ConnectAsync("127.0.0.1", endpoint.Port, secret, Patience);
        server = TcpStoreServer.Start(endpoint, secret);
        await using TcpStore store = await connecting;
        Assert.Equal(1, await store.AddAsync("key", 1));
    }

    [Fact]
    public async Task A_connection_dropped_after_its_handshake_is_made_again()
    {
        var served = new TaskCompletionSource();
        using Impostor overloaded = Impostor.StartOverloaded(secret, dropped: 2, async (socket, _) =>
        {
            served.SetResult();
            await Sockets.IsClosedByPeerAsync(socket);
        });
        await using TcpStore store = await TcpStore.ConnectAsync("127.0.0.1", overloaded.Port, secret, Patience);
        await served.Task.WaitAsync(Patience);
    }

    [Fact]
    public async Task A_server_that_never_comes_is_named_with_what_was_tried()
    {
        await server.DisposeAsync();
        var error = await Assert.ThrowsAsync<RendezvousException>(
            () => TcpStore.ConnectAsync("127.0.0.1", server.Endpoint.Port, secret, TimeSpan.FromMilliseconds(300)));
        Assert.Contains($"127.0.0.1:{server.Endpoint.Port}", error.Message);
        Assert.Contains("0.3 s", error.Message);
        Assert.Contains("attempts", error.Message);
        Assert.Contains("refused", error.Message);
    }

    [Fact]
    public async Task A_client_with_another_secret_is_refused()
    {
        var error = await Assert.ThrowsAsync<JobAuthenticationException>(
            () => TcpStore.ConnectAsync("127.0.0.1", server.Endpoint.Port, JobSecret.Generate(), Patience));
        Assert.Contains("SKEIN_JOB_SECRET", error.Message);
    }

    [Theory]
    [InlineData(new byte[] { 0xFF, 0xFF, 0xFF, 0xFF })] // A frame of 4 GiB.
    [InlineData(new byte[] { 9, 0, 0, 0, 1, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0x7F })] // A key of 2 GiB.
    [InlineData(new byte[] { 0, 0, 0, 0 })]
    [InlineData(new byte[] { 1, 0, 0, 0, 99 })]
    [InlineData(new byte[] { 9, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0 })] // An empty key.
    [InlineData(new byte[] { 18, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0, 0, 0, 65, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F })] // Waits for 292 million years.
    public async Task A_malformed_request_costs_its_client_the_connection_and_nobody_else(byte[] request)
    {
        using Socket socket = await AuthenticatedConnection.ConnectAsync(
            "127.0.0.1", server.Endpoint.Port, secret, ConnectionPurpose.Store, default, Patience);
        long before = GC.GetTotalAllocatedBytes(precise: true);
        await socket.SendAsync(request);
        Assert.True(await Sockets.IsClosedByPeerAsync(socket));

        // Other tests run beside this one; 2 GiB would stand out.
        Assert.InRange(GC.GetTotalAllocatedBytes(precise: true) - before, 0, 1_000_000_000);

        await using TcpStore store = await ConnectAsync();
        Assert.Equal(1, await store.AddAsync("key", 1));
    }

    [Fact]
    public async Task Ipv6_works_and_the_any_address_accepts_both()
    {
        Assert.SkipUnless(Socket.OSSupportsIPv6, "this machine has no IPv6");
        await using TcpStoreServer both = TcpStoreServer.Start(new IPEndPoint(IPAddress.IPv6Any, 0), secret);
        foreach (string host in new[] { "::1", "127.0.0.1", "localhost" })
        {
            await using TcpStore store = await TcpStore.ConnectAsync(host, both.Endpoint.Port, secret, Patience);
            await store.AddAsync("key", 1);
        }
    }

    private Task<TcpStore> ConnectAsync() => TcpStore.ConnectAsync("127.0.0.1", server.Endpoint.Port, secret, Patience);
}

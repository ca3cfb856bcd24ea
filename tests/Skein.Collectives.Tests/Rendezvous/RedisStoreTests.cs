using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using Skein.Collectives.Rendezvous;
using StackExchange.Redis;

namespace Skein.Collectives.Tests.Rendezvous;

/// <summary>Against a real server, one for the class; each test has its own job id.</summary>
public sealed class RedisStoreTests(RedisServer server) : StoreContract, IClassFixture<RedisServer>
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);
    private readonly string job = Guid.NewGuid().ToString("N");

    protected override async Task<(Store First, Store Second)> OpenAsync()
    {
        server.SkipIfMissing();
        return (await ConnectAsync(job), await ConnectAsync(job));
    }

    [Fact]
    public async Task Jobs_do_not_see_each_others_keys()
    {
        await using RedisStore one = await ConnectAsync(job + "-1");
        await using RedisStore two = await ConnectAsync(job + "-2");
        await one.SetAsync("key", new byte[1]);
        Assert.True(await two.CompareAndSetAsync("key", null, new byte[2]));
        Assert.Equal(new byte[1], await one.GetAsync("key", TimeSpan.Zero));
    }

    [Fact]
    public async Task Keys_expire_after_a_day()
    {
        await using RedisStore store = await ConnectAsync(job);
        await store.SetAsync("set", new byte[1]);
        await store.AddAsync("add", 1);
        await store.CompareAndSetAsync("swap", null, new byte[1]);
        await using ConnectionMultiplexer redis = await ConnectionMultiplexer.ConnectAsync(server.Configuration);
        foreach (string key in new[] { "set", "add", "swap" })
        {
            TimeSpan? left = await redis.GetDatabase().KeyTimeToLiveAsync($"skein:{job}:{key}");
            Assert.InRange(left!.Value, TimeSpan.FromHours(23.9), TimeSpan.FromHours(24));
        }
    }

    [Fact]
    public async Task A_job_joins_past_what_earlier_ones_left_under_its_id_and_leaves_nothing_itself()
    {
        server.SkipIfMissing();
        await using (RedisStore earlier = await ConnectAsync(job))
        {
            // Of a job of this version that was killed, and of one before: addresses at which nobody listens any more.
            var dead = new RankAddress("host", "127.0.0.1", 1);
            foreach (int rank in new[] { 0, 1 })
            {
                await earlier.SetAsync($"{job}/0/rank/{rank}", dead.Encode());
                await earlier.SetAsync($"{job}/0-0123456789abcdef/rank/{rank}", dead.Encode());
            }

            await earlier.SetAsync($"{job}/0/join/1", "feed"u8.ToArray());
            await earlier.SetAsync($"{job}/0/joined/feed", "0123456789abcdef"u8.ToArray());
        }

        float[] sums = await Task.WhenAll(Enumerable.Range(0, 2).Select(rank => Task.Run(async () =>
        {
            await using ProcessGroup group = await ProcessGroup.InitializeAsync(new ProcessGroupOptions
            {
                Rank = rank,
                WorldSize = 2,
                LocalRank = rank,
                LocalWorldSize = 2,
                JobId = job,
                RedisStore = server.Configuration,
                Secret = JobSecret.FromHex("000102030405060708090a0b0c0d0e0f"),
                Transport = TransportKind.Tcp,
                Timeout = Patience,
            });
            float[] buffer = [rank + 1];
            group.AllReduce(buffer.AsSpan());
            return buffer[0];
        })));
        Assert.Equal([3f, 3f], sums);

        await using ConnectionMultiplexer redis = await ConnectionMultiplexer.ConnectAsync(server.Configuration);
        string[] left = [.. redis.GetServer(server.Address).Keys(pattern: $"skein:{job}:*").Select(key => $"{key}"[$"skein:{job}:{job}/0".Length..]).Order()];
        Assert.Equal(
            ["-0123456789abcdef/rank/0", "-0123456789abcdef/rank/1", "/joined/feed", "/rank/0", "/rank/1"], left);
    }

    [Fact]
    public async Task What_the_server_refuses_names_it_and_the_setting()
    {
        server.SkipIfMissing();
        await using ConnectionMultiplexer redis = await ConnectionMultiplexer.ConnectAsync($"{server.Configuration},allowAdmin=true");
        await redis.GetServer(server.Address).ExecuteAsync("ACL", "SETUSER", "reader", "on", ">reads-only-00", "~*", "+@read", "+@connection");
        await using RedisStore store = await RedisStore.ConnectAsync($"{server.Address},user=reader,password=reads-only-00", job, Patience);
        var error = await Assert.ThrowsAsync<RendezvousException>(() => store.SetAsync("key", new byte[1]));
        Assert.Contains($"the Redis store at {server.Address} refused a request: NOPERM", error.Message);
        Assert.Contains("SKEIN_REDIS_STORE", error.Message);
    }

    [Fact]
    public async Task A_wrong_password_is_an_error_that_does_not_show_it()
    {
        const string Wrong = "hunter2hunter2";
        var error = await Assert.ThrowsAsync<RendezvousException>(
            () => RedisStore.ConnectAsync($"{server.Address},password={Wrong}", job, TimeSpan.FromHours(1)).WaitAsync(Patience));
        Assert.Contains("AuthenticationFailure", error.Message);
        Assert.DoesNotContain(Wrong, error.ToString());
        Assert.Contains(server.Address, error.Message);
        Assert.Contains("SKEIN_REDIS_STORE", error.Message);
    }

    [Fact]
    public async Task A_server_that_is_not_there_is_named_within_the_timeout()
    {
        using var unused = new TcpListener(IPAddress.Loopback, 0);
        unused.Start();
        int port = ((IPEndPoint)unused.LocalEndpoint).Port;
        unused.Stop();
        long start = Stopwatch.GetTimestamp();
        var error = await Assert.ThrowsAsync<RendezvousException>(
            () => RedisStore.ConnectAsync($"127.0.0.1:{port}", job, TimeSpan.FromSeconds(1)));
        Assert.Contains($"127.0.0.1:{port}", error.Message);
        Assert.InRange(Stopwatch.GetElapsedTime(start), TimeSpan.FromSeconds(0.9), TimeSpan.FromSeconds(10));
    }

    [Theory]
    [InlineData("redis://user:hunter2@example.com:6379")]
    [InlineData("example.com,nonsense=hunter2")]
    [InlineData("password=hunter2")]
    public async Task A_bad_configuration_is_an_error_that_does_not_show_it(string configuration)
    {
        var error = await Assert.ThrowsAsync<RendezvousException>(() => RedisStore.ConnectAsync(configuration, job, Patience));
        Assert.DoesNotContain("hunter2", error.ToString());
        Assert.Contains("expected host:port", error.Message);
    }

    [Fact]
    public async Task When_the_server_is_killed_calls_fail_and_name_it()
    {
        await using var own = new RedisServer();
        await own.InitializeAsync();
        await using RedisStore store = await RedisStore.ConnectAsync(own.Configuration, job, TimeSpan.FromSeconds(1));
        await store.SetAsync("key", new byte[1]);
        Task<byte[]> waiting = store.GetAsync("never", TimeSpan.FromHours(1));
        own.Kill();
        var error = await Assert.ThrowsAsync<PeerLostException>(() => waiting.WaitAsync(Patience));
        Assert.Contains(own.Address, error.Message);
        Assert.DoesNotContain(own.Password, error.ToString());
        await Assert.ThrowsAsync<PeerLostException>(() => store.SetAsync("key", new byte[1]).WaitAsync(Patience));
    }

    private Task<RedisStore> ConnectAsync(string jobId) => RedisStore.ConnectAsync(server.Configuration, jobId, Patience);
}

using System.Text;
using Skein.Collectives.Rendezvous;

namespace Skein.Collectives.Tests.Rendezvous;

/// <summary>What every store promises; each store's tests derive from it.</summary>
public abstract class StoreContract : IAsyncLifetime
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);
    private Store first = null!;
    private Store second = null!;

    /// <summary>Two clients of one empty store (which may be the same object).</summary>
    protected abstract Task<(Store First, Store Second)> OpenAsync();

    protected virtual ValueTask CloseAsync() => ValueTask.CompletedTask;

    public async ValueTask InitializeAsync() => (first, second) = await OpenAsync();

    public async ValueTask DisposeAsync()
    {
        if (first is not null) await first.DisposeAsync();
        if (second is not null) await second.DisposeAsync();
        await CloseAsync();
        GC.SuppressFinalize(this);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(1000)]
    [InlineData(1 << 20)]
    public async Task Returns_what_another_client_set(int length)
    {
        var value = new byte[length];
        new Random(length).NextBytes(value);
        await first.SetAsync("key", value);
        Assert.Equal(value, await second.GetAsync("key", TimeSpan.Zero));
    }

    [Fact]
    public async Task Set_replaces()
    {
        await first.SetAsync("key", "long before"u8.ToArray());
        await second.SetAsync("key", "after"u8.ToArray());
        Assert.Equal("after"u8.ToArray(), await first.GetAsync("key", TimeSpan.Zero));
    }

    [Fact]
    public async Task Get_waits_for_the_key_without_holding_up_other_calls_of_the_client()
    {
        Task<byte[]>[] waiting = [.. Enumerable.Range(0, 50).Select(i => first.GetAsync($"late/{i}", Patience))];
        await first.SetAsync("other", "x"u8.ToArray());
        Assert.All(waiting, task => Assert.False(task.IsCompleted));
        for (int i = 49; i >= 0; i--) await second.SetAsync($"late/{i}", BitConverter.GetBytes(i));
        for (int i = 0; i < 50; i++) Assert.Equal(i, BitConverter.ToInt32(await waiting[i]));
    }

    [Fact]
    public async Task Several_waiters_of_one_key_all_get_it()
    {
        Task<byte[]>[] waiting = [.. Enumerable.Range(0, 20).Select(i => (i % 2 == 0 ? first : second).GetAsync("key", Patience))];
        await first.SetAsync("key", "value"u8.ToArray());
        byte[][] values = await Task.WhenAll(waiting);
        Assert.All(values, value => Assert.Equal("value"u8.ToArray(), value));
        values[0][0] = 0;
        Assert.Equal("value"u8.ToArray(), values[1]);
    }

    [Fact]
    public async Task A_wait_that_is_too_long_names_the_key_and_the_time()
    {
        var error = await Assert.ThrowsAsync<CollectiveTimeoutException>(() => first.GetAsync("rank-3/address", TimeSpan.FromMilliseconds(250)));
        Assert.Contains("'rank-3/address'", error.Message);
        Assert.Contains("0.25 s", error.Message);
    }

    [Fact]
    public async Task A_wait_can_be_cancelled()
    {
        using var cancel = new CancellationTokenSource();
        Task<byte[]> waiting = first.GetAsync("key", Patience, cancel.Token);
        await cancel.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => waiting);
        await first.SetAsync("key", "value"u8.ToArray());
        Assert.Equal("value"u8.ToArray(), await first.GetAsync("key", Patience));
    }

    [Fact]
    public async Task Concurrent_adds_lose_nothing()
    {
        long[][] sums = await Task.WhenAll(Enumerable.Range(0, 16).Select(async task =>
        {
            Store store = task % 2 == 0 ? first : second;
            var seen = new long[50];
            for (int i = 0; i < seen.Length; i++) seen[i] = await store.AddAsync("counter", 1);
            return seen;
        }));

        // Each value from 1 to 800 was returned exactly once.
        Assert.Equal(Enumerable.Range(1, 800).Select(i => (long)i), sums.SelectMany(seen => seen).Order());
        Assert.Equal("800", Encoding.ASCII.GetString(await first.GetAsync("counter", TimeSpan.Zero)));
    }

    [Fact]
    public async Task Add_starts_at_zero_goes_below_and_is_exact_in_64_bits()
    {
        Assert.Equal(-5, await first.AddAsync("key", -5));
        Assert.Equal(0, await first.AddAsync("key", 5));
        Assert.Equal(long.MaxValue - 1, await first.AddAsync("key", long.MaxValue - 1));
        Assert.Equal(long.MaxValue, await first.AddAsync("key", 1));
        var error = await Assert.ThrowsAsync<InvalidOperationException>(() => first.AddAsync("key", 1));
        Assert.Contains("'key'", error.Message);
        Assert.Equal(long.MaxValue, await first.AddAsync("key", 0));
    }

    [Fact]
    public async Task Add_to_a_value_that_is_no_integer_is_an_error()
    {
        await first.SetAsync("name", "skein"u8.ToArray());
        var error = await Assert.ThrowsAsync<InvalidOperationException>(() => first.AddAsync("name", 1));
        Assert.Contains("'name'", error.Message);
        Assert.Equal("skein"u8.ToArray(), await first.GetAsync("name", TimeSpan.Zero));
    }

    [Fact]
    public async Task Add_wakes_those_who_wait()
    {
        Task<byte[]> waiting = second.GetAsync("counter", Patience);
        await first.AddAsync("counter", 7);
        Assert.Equal("7"u8.ToArray(), await waiting);
    }

    [Fact]
    public async Task Compare_and_set_writes_only_over_what_is_expected()
    {
        byte[] a = "a"u8.ToArray(), b = "b"u8.ToArray(), empty = [];
        Assert.False(await first.CompareAndSetAsync("key", a, b));
        Assert.False(await first.CompareAndSetAsync("key", empty, b));
        Assert.True(await first.CompareAndSetAsync("key", null, a));
        Assert.False(await second.CompareAndSetAsync("key", null, b));
        Assert.False(await second.CompareAndSetAsync("key", b, b));
        Assert.True(await second.CompareAndSetAsync("key", a, empty));
        Assert.True(await second.CompareAndSetAsync("key", empty, b));
        Assert.Equal(b, await first.GetAsync("key", TimeSpan.Zero));
    }

    [Fact]
    public async Task Of_concurrent_compare_and_sets_exactly_one_wins_each_round()
    {
        await first.SetAsync("key", BitConverter.GetBytes(0));
        for (int round = 0; round < 20; round++)
        {
            bool[] won = await Task.WhenAll(Enumerable.Range(0, 8).Select(i =>
                (i % 2 == 0 ? first : second).CompareAndSetAsync("key", BitConverter.GetBytes(round), BitConverter.GetBytes(round + 1))));
            Assert.Single(won, true);
        }
    }

    [Fact]
    public async Task Delete_says_whether_the_key_existed()
    {
        Assert.False(await first.DeleteAsync("key"));
        await first.SetAsync("key", "value"u8.ToArray());
        Assert.True(await second.DeleteAsync("key"));
        Assert.False(await first.DeleteAsync("key"));
        await Assert.ThrowsAsync<CollectiveTimeoutException>(() => first.GetAsync("key", TimeSpan.Zero));
    }

    [Fact]
    public async Task Limits_are_checked()
    {
        await Assert.ThrowsAnyAsync<ArgumentException>(() => first.SetAsync("", new byte[1]));
        await Assert.ThrowsAnyAsync<ArgumentException>(() => first.SetAsync(new string('k', 1025), new byte[1]));
        await Assert.ThrowsAnyAsync<ArgumentException>(() => first.GetAsync(new string('é', 513), TimeSpan.Zero));
        await Assert.ThrowsAnyAsync<ArgumentException>(() => first.GetAsync("key", Timeout.InfiniteTimeSpan));
        var error = await Assert.ThrowsAnyAsync<ArgumentException>(() => first.SetAsync("key", new byte[(1 << 20) + 1]));
        Assert.Contains("1048577", error.Message);
        await first.SetAsync(new string('é', 512), new byte[1]);
        Assert.Equal(new byte[1], await second.GetAsync(new string('é', 512), TimeSpan.Zero));
    }
}

public sealed class InProcessStoreTests : StoreContract
{
    protected override Task<(Store First, Store Second)> OpenAsync()
    {
        var store = new InProcessStore();
        return Task.FromResult<(Store, Store)>((store, store));
    }
}

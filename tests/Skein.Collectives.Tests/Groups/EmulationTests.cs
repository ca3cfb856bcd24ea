using System.Diagnostics;
using Skein.TestKit;

namespace Skein.Collectives.Tests.Groups;

/// <summary>An emulated network's arithmetic: never sooner than it says, and not much later.</summary>
public sealed class EmulationTests
{
    private static readonly NetworkEmulation Slow = new(4e6, TimeSpan.FromMilliseconds(50));

    [Fact]
    public void A_message_takes_its_bytes_over_the_rate_and_the_latency()
    {
        const int Bytes = 2_000_000;
        Ranks.Run(2, TransportKind.Auto, group =>
        {
            var buffer = new byte[Bytes];
            group.Barrier();
            long start = Stopwatch.GetTimestamp();
            if (group.Rank == 0) group.Send<byte>(buffer, 1);
            else group.Recv(buffer.AsSpan(), 0);
            double seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
            // The barrier may end for the receiver a latency before it does for the sender, or after.
            if (group.Rank == 1) Assert.InRange(seconds, (Bytes / Slow.BytesPerSecond) - 0.001, (Bytes / Slow.BytesPerSecond) + 0.5);
            Assert.Equal("tcp", group.TransportName);
        }, static options => options with { Emulation = Slow });
    }

    [Fact]
    public void A_round_trip_takes_twice_the_latency() =>
        Ranks.Run(2, TransportKind.Tcp, group =>
        {
            byte[] one = [1];
            group.Barrier();
            long start = Stopwatch.GetTimestamp();
            for (int i = 0; i < 3; i++)
            {
                if (group.Rank == 0) group.Send<byte>(one, 1);
                group.Recv(one.AsSpan(), 1 - group.Rank);
                if (group.Rank == 1) group.Send<byte>(one, 0);
            }

            if (group.Rank == 0) Assert.InRange(Stopwatch.GetElapsedTime(start).TotalSeconds, 0.3, 0.6);
        }, static options => options with { Emulation = Slow });

    [Fact]
    public void A_ring_takes_what_its_bytes_take_and_the_sum_is_right()
    {
        const int Length = 200_000;
        Ranks.Run(4, TransportKind.Tcp, group =>
        {
            float[] values = [.. Enumerable.Range(0, Length).Select(i => (float)((i * (group.Rank + 1)) % 1000))];
            group.Barrier();
            long start = Stopwatch.GetTimestamp();
            group.AllReduce(values.AsSpan());
            double seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
            for (int i = 0; i < Length; i++) Assert.Equal(Enumerable.Range(1, 4).Sum(rank => (i * rank) % 1000), values[i]);

            // Six steps, each of a quarter of the bytes and a latency.
            double expected = 6 * ((Length * 4 / 4 / Slow.BytesPerSecond) + Slow.Latency.TotalSeconds);
            Assert.InRange(seconds, expected - 0.1, (expected * 1.5) + 0.5);
        }, static options => options with { Emulation = Slow, Algorithm = AllReduceAlgorithm.Ring });
    }

    [Theory]
    [InlineData("100Mbit", "20ms", 12.5e6, 20)]
    [InlineData("1.5Gbit", null, 187.5e6, 0)]
    [InlineData(null, "300us", double.PositiveInfinity, 0.3)]
    [InlineData("800bit", "1s", 100, 1000)]
    public void Rates_and_times_have_units(string? bandwidth, string? latency, double bytesPerSecond, double milliseconds) =>
        Assert.Equal(new NetworkEmulation(bytesPerSecond, TimeSpan.FromMilliseconds(milliseconds)), NetworkEmulation.Parse(bandwidth, latency));

    [Theory]
    [InlineData("100", null, "the emulated bandwidth is '100'")]
    [InlineData("0Mbit", null, "the emulated bandwidth is '0Mbit'")]
    [InlineData("-1Mbit", null, "the emulated bandwidth is '-1Mbit'")]
    [InlineData("fastMbit", null, "the emulated bandwidth is 'fastMbit'")]
    [InlineData(null, "20", "the emulated latency is '20'")]
    [InlineData(null, "2000s", "the emulated latency is '2000s'")]
    public void What_is_no_rate_or_time_is_refused(string? bandwidth, string? latency, string message) =>
        Assert.StartsWith(message, Assert.Throws<FormatException>(() => NetworkEmulation.Parse(bandwidth, latency)).Message, StringComparison.Ordinal);

    [Fact]
    public void Nothing_is_emulated_unless_asked() => Assert.Null(NetworkEmulation.Parse(null, null));
}

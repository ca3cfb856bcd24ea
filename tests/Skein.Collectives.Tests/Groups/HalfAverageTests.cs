using Skein.TestKit;

namespace Skein.Collectives.Tests.Groups;

/// <summary>Averages in 16-bit types are in the type's range whatever carries them, and as precise as said.</summary>
public sealed class HalfAverageTests
{
    private const double LargestHalf = 65504, SmallestHalf = 1.0 / (1 << 24);

    public static TheoryData<TransportKind, int, AllReduceAlgorithm> Jobs()
    {
        TheoryData<TransportKind, int, AllReduceAlgorithm> data = [];
        foreach (int worldSize in new[] { 2, 3, 4, 5, 6, 7, 8 })
        {
            foreach (AllReduceAlgorithm algorithm in Enum.GetValues<AllReduceAlgorithm>())
            {
                if (algorithm != AllReduceAlgorithm.Direct) data.Add(TransportKind.Tcp, worldSize, algorithm);
            }
        }

        data.Add(TransportKind.SharedMemory, 5, AllReduceAlgorithm.Direct);
        data.Add(TransportKind.SharedMemory, 5, AllReduceAlgorithm.Ring);
        return data;
    }

    [Theory]
    [MemberData(nameof(Jobs))]
    public void Averages_of_the_largest_values_do_not_overflow(TransportKind transport, int worldSize, AllReduceAlgorithm algorithm) =>
        Ranks.Run(worldSize, transport, CheckLargest, options => options with { Algorithm = algorithm });

    /// <summary>Two ranks to a host, so that the hosts' leaders bring unequally many.</summary>
    [Theory]
    [InlineData(3)]
    [InlineData(5)]
    [InlineData(7)]
    public void Averages_over_several_hosts_do_not_overflow(int worldSize) => Ranks.Run(
        worldSize, TransportKind.Auto,
        static group =>
        {
            CheckLargest(group);
            CheckError(group, static value => (Half)value, static value => (double)value, 1000, 1.0 / (1 << 10), SmallestHalf);
        },
        static options => options with { Algorithm = AllReduceAlgorithm.Hierarchical, HostId = $"host {options.Rank / 2}" });

    [Theory]
    [MemberData(nameof(Jobs))]
    public void An_average_is_off_by_a_unit_in_the_last_place_for_each_step_at_most(
        TransportKind transport, int worldSize, AllReduceAlgorithm algorithm) =>
        Ranks.Run(
            worldSize, transport,
            static group =>
            {
                foreach (double size in new[] { LargestHalf, 1, 1e-4, 4 * SmallestHalf })
                {
                    CheckError(group, static value => (Half)value, static value => (double)value, size, 1.0 / (1 << 10), SmallestHalf);
                }

                foreach (double size in new[] { 1e37, 1, 1e-30 })
                {
                    CheckError(group, static value => (BFloat16)(float)value, static value => (float)value, size, 1.0 / (1 << 7), 0);
                }
            },
            options => options with { Algorithm = algorithm });

    private static void CheckLargest(ProcessGroup group)
    {
        // The sums of three and more are rounded; up to four times, the result is still exact.
        double allowed = group.WorldSize <= 4 ? 0 : (group.WorldSize - 1) * 32;
        foreach (int length in new[] { 1, 33, 20_001 })
        {
            foreach (float value in new[] { 30_000f, 65_504f, -65_504f })
            {
                Half[] all = [.. Enumerable.Repeat((Half)value, length)];
                group.AllReduce(all.AsSpan(), ReduceOperation.Average);
                Check(all, value);

                Half[] part = new Half[Partition.Length(length, group.WorldSize, group.Rank)];
                group.ReduceScatter<Half>([.. Enumerable.Repeat((Half)value, length)], part, ReduceOperation.Average);
                Check(part, value);

                Half[] rooted = [.. Enumerable.Repeat((Half)value, length)];
                group.Reduce(rooted.AsSpan(), group.WorldSize - 1, ReduceOperation.Average);
                if (group.Rank == group.WorldSize - 1) Check(rooted, value);
            }
        }

        void Check(Half[] values, float value) => Assert.All(values, one => Assert.Equal(value, (double)one, allowed));
    }

    /// <summary>Against the mean in double precision.</summary>
    private static void CheckError<T>(
        ProcessGroup group, Func<double, T> narrow, Func<T, double> widen, double size, double unit, double smallest) where T : unmanaged
    {
        foreach (int length in new[] { 257, 20_001 })
        {
            T[][] all = [.. Enumerable.Range(0, group.WorldSize).Select(rank =>
            {
                Random random = new((rank * 7) + length);
                return Enumerable.Range(0, length).Select(_ => narrow(size * ((2 * random.NextDouble()) - 1))).ToArray();
            })];
            T[] actual = [.. all[group.Rank]];
            group.AllReduce(actual.AsSpan(), ReduceOperation.Average);
            double allowed = (group.WorldSize - 1) * Math.Max(unit * size, smallest);
            for (int i = 0; i < length; i++) Assert.Equal(all.Average(one => widen(one[i])), widen(actual[i]), allowed);
        }
    }
}

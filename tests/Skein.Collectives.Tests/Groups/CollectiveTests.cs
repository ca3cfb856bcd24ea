using Skein.TestKit;

namespace Skein.Collectives.Tests.Groups;

/// <summary>Every collective against a reference, for every transport, world size, element type, length and root.</summary>
public sealed class CollectiveTests
{
    private static readonly int[] Lengths = [0, 1, 2, 3, 7, 257, 1009];

    public static TheoryData<TransportKind, int> Jobs()
    {
        TheoryData<TransportKind, int> data = [];
        foreach (TransportKind transport in new[] { TransportKind.SharedMemory, TransportKind.Tcp })
        {
            foreach (int worldSize in new[] { 1, 2, 3, 4, 5, 8 }) data.Add(transport, worldSize);
        }

        // The same code as shared memory, but for what is shared.
        data.Add(TransportKind.InProcess, 3);
        return data;
    }

    public static TheoryData<TransportKind, int, AllReduceAlgorithm> JobsAndAlgorithms()
    {
        TheoryData<TransportKind, int, AllReduceAlgorithm> data = [];
        foreach (AllReduceAlgorithm algorithm in Enum.GetValues<AllReduceAlgorithm>())
        {
            foreach (var job in Jobs())
            {
                (TransportKind transport, int worldSize) = job.Data;
                if (algorithm == AllReduceAlgorithm.Direct && transport == TransportKind.Tcp) continue;
                data.Add(transport, worldSize, algorithm);
            }
        }

        return data;
    }

    [Theory]
    [MemberData(nameof(JobsAndAlgorithms))]
    public void All_reduce(TransportKind transport, int worldSize, AllReduceAlgorithm algorithm) =>
        Ranks.Run(
            worldSize, transport,
            group =>
            {
                foreach (ReduceOperation operation in Enum.GetValues<ReduceOperation>())
                {
                    foreach (int length in Lengths)
                    {
                        AllReduce<float>(group, length, operation);
                        AllReduce<double>(group, length, operation);
                        AllReduce<Half>(group, length, operation);
                        AllReduce<BFloat16>(group, length, operation);
                        AllReduce<int>(group, length, operation);
                        AllReduce<long>(group, length, operation);
                        AllReduce<byte>(group, length, operation);
                    }
                }

                // Several pieces in every step, and no whole number of them.
                if (worldSize <= 5) AllReduce<float>(group, 300_007, ReduceOperation.Average);
                if (worldSize <= 3) AllReduce<byte>(group, 1_500_003, ReduceOperation.Max);
            },
            options => options with { Algorithm = algorithm });

    private static void AllReduce<T>(ProcessGroup group, int length, ReduceOperation operation) where T : unmanaged
    {
        T[] expected = Contributions.Reduced<T>(group.WorldSize, length, operation);
        string what = $"all-reduce of {length} {typeof(T).Name}, {operation}, on rank {group.Rank}";

        T[] buffer = Contributions.Of<T>(group.Rank, length, operation);
        group.AllReduce(buffer.AsSpan(), operation);
        Contributions.AssertEqual<T>(expected, buffer, what);

        buffer = Contributions.Of<T>(group.Rank, length, operation);
        group.AllReduceAsync(buffer.AsMemory(), operation).Wait();
        Contributions.AssertEqual<T>(expected, buffer, what + ", asynchronously");
    }

    /// <summary>Two ranks to a host: shared memory within, TCP between.</summary>
    [Theory]
    [InlineData(3, AllReduceAlgorithm.Auto)]
    [InlineData(3, AllReduceAlgorithm.Hierarchical)]
    [InlineData(4, AllReduceAlgorithm.Ring)]
    [InlineData(4, AllReduceAlgorithm.Hierarchical)]
    [InlineData(5, AllReduceAlgorithm.HalvingDoubling)]
    [InlineData(5, AllReduceAlgorithm.Tree)]
    [InlineData(5, AllReduceAlgorithm.Hierarchical)]
    public void Several_hosts(int worldSize, AllReduceAlgorithm algorithm) =>
        Ranks.Run(
            worldSize, TransportKind.Auto,
            group =>
            {
                Assert.Equal(group.LocalWorldSize == 1 ? "tcp" : "shm+tcp", group.TransportName);
                foreach (int length in (int[])[.. Lengths, 300_007])
                {
                    AllReduce<float>(group, length, ReduceOperation.Average);
                    ReduceScatter<float>(group, length, ReduceOperation.Sum);
                    AllGather<float>(group, length);
                    Rooted<float>(group, length, worldSize - 1);
                }
            },
            options => options with { Algorithm = algorithm, HostId = $"host {options.Rank / 2}" });

    [Theory]
    [MemberData(nameof(Jobs))]
    public void All_reduce_in_shared_buffers(TransportKind transport, int worldSize) => Ranks.Run(worldSize, transport, group =>
    {
        foreach (int length in new[] { 0, 1, 1009, 300_007 })
        {
            using SharedBuffer<float> buffer = group.AllocateShared<float>(length);
            for (int repetition = 0; repetition < 3; repetition++)
            {
                Contributions.Of<float>(group.Rank, length).CopyTo(buffer.GetSpan());
                group.AllReduce(buffer.GetSpan());
                Contributions.AssertEqual(Contributions.Reduced<float>(worldSize, length, ReduceOperation.Sum), buffer.GetSpan(), $"shared {length}");
            }

            // Any slice may be passed, also one that is not aligned.
            if (length < 100) continue;
            int start = 13, count = length - 31;
            Contributions.Of<float>(group.Rank, length).CopyTo(buffer.GetSpan());
            group.AllReduceAsync(buffer.Memory.Slice(start, count)).Wait();
            float[] sums = Contributions.Reduced<float>(worldSize, length, ReduceOperation.Sum);
            float[] own = Contributions.Of<float>(group.Rank, length);
            Contributions.AssertEqual<float>(own.AsSpan(0, start), buffer.GetSpan()[..start], "before the slice");
            Contributions.AssertEqual<float>(sums.AsSpan(start, count), buffer.GetSpan().Slice(start, count), "in the slice");
            Contributions.AssertEqual<float>(own.AsSpan(start + count), buffer.GetSpan()[(start + count)..], "behind the slice");
        }
    });

    [Theory]
    [MemberData(nameof(Jobs))]
    public void Reduce_scatter(TransportKind transport, int worldSize) => Ranks.Run(worldSize, transport, group =>
    {
        foreach (ReduceOperation operation in Enum.GetValues<ReduceOperation>())
        {
            foreach (int length in (int[])[.. Lengths, 200_003])
            {
                ReduceScatter<float>(group, length, operation);
                if (length > 100_000) continue;
                ReduceScatter<Half>(group, length, operation);
                ReduceScatter<BFloat16>(group, length, operation);
                ReduceScatter<double>(group, length, operation);
                ReduceScatter<int>(group, length, operation);
                ReduceScatter<long>(group, length, operation);
                ReduceScatter<byte>(group, length, operation);
            }
        }
    });

    private static void ReduceScatter<T>(ProcessGroup group, int length, ReduceOperation operation) where T : unmanaged
    {
        (int start, int count) = Part(length, group.WorldSize, group.Rank);
        T[] input = Contributions.Of<T>(group.Rank, length, operation), output = new T[count];
        group.ReduceScatter<T>(input, output, operation);
        T[] expected = Contributions.Reduced<T>(group.WorldSize, length, operation);
        Contributions.AssertEqual(expected.AsSpan(start, count), output, $"reduce-scatter of {length} {typeof(T).Name}, {operation}");
        Contributions.AssertEqual<T>(Contributions.Of<T>(group.Rank, length, operation), input, "a reduce-scatter's input");
    }

    [Theory]
    [MemberData(nameof(Jobs))]
    public void All_gather(TransportKind transport, int worldSize) => Ranks.Run(worldSize, transport, group =>
    {
        foreach (int length in (int[])[.. Lengths, 200_003])
        {
            AllGather<float>(group, length);
            AllGather<byte>(group, length);
            AllGather<Half>(group, length);
            AllGather<long>(group, length);
        }

        // Counts of its own for each rank, some of them 0.
        int[] counts = [.. Enumerable.Range(0, worldSize).Select(rank => rank % 3 * 1000 + rank)];
        int[] gathered = new int[counts.Sum()];
        group.AllGather<int>(Contributions.Of<int>(group.Rank, counts[group.Rank]), gathered, counts);
        int[] all = [.. counts.SelectMany((count, rank) => Contributions.Of<int>(rank, count))];
        Contributions.AssertEqual<int>(all, gathered, "variable all-gather");
    });

    private static void AllGather<T>(ProcessGroup group, int length) where T : unmanaged
    {
        T[] Of(int rank) => Contributions.Of<T>(rank, Part(length, group.WorldSize, rank).Count);
        T[] output = new T[length];
        group.AllGather<T>(Of(group.Rank), output);
        T[] all = [.. Enumerable.Range(0, group.WorldSize).SelectMany(Of)];
        Contributions.AssertEqual<T>(all, output, $"all-gather of {length} {typeof(T).Name}");
    }

    [Theory]
    [MemberData(nameof(Jobs))]
    public void Broadcast_reduce_gather_and_scatter_from_every_root(TransportKind transport, int worldSize) => Ranks.Run(worldSize, transport, group =>
    {
        for (int root = 0; root < worldSize; root++)
        {
            foreach (int length in (int[])[.. Lengths, 200_003])
            {
                Rooted<float>(group, length, root);
                if (length > 100_000) continue;
                Rooted<byte>(group, length, root);
                Rooted<BFloat16>(group, length, root);
            }
        }
    });

    private static void Rooted<T>(ProcessGroup group, int length, int root) where T : unmanaged
    {
        int n = group.WorldSize, rank = group.Rank;
        string what = $"{length} {typeof(T).Name}, root {root}, on rank {rank}";

        T[] buffer = Contributions.Of<T>(rank, length);
        group.Broadcast(buffer.AsSpan(), root);
        Contributions.AssertEqual<T>(Contributions.Of<T>(root, length), buffer, "broadcast of " + what);

        buffer = Contributions.Of<T>(rank, length);
        group.Reduce(buffer.AsSpan(), root, ReduceOperation.Average);
        if (rank == root) Contributions.AssertEqual<T>(Contributions.Reduced<T>(n, length, ReduceOperation.Average), buffer, "reduce of " + what);

        T[] all = [.. Enumerable.Range(0, n).SelectMany(r => Contributions.Of<T>(r, length))];
        T[] gathered = rank == root ? new T[n * length] : [];
        group.Gather<T>(Contributions.Of<T>(rank, length), gathered, root);
        if (rank == root) Contributions.AssertEqual<T>(all, gathered, "gather of " + what);

        T[] part = new T[length];
        group.Scatter<T>(rank == root ? all : [], part, root);
        Contributions.AssertEqual<T>(Contributions.Of<T>(rank, length), part, "scatter of " + what);
    }

    [Theory]
    [MemberData(nameof(Jobs))]
    public void All_to_all(TransportKind transport, int worldSize) => Ranks.Run(worldSize, transport, group =>
    {
        int rank = group.Rank;
        foreach (int length in (int[])[.. Lengths, 200_003])
        {
            int own = Part(length, worldSize, rank).Count;
            float[] output = new float[own * worldSize];
            group.AllToAll<float>(Contributions.Of<float>(rank, length), output);
            int start = Part(length, worldSize, rank).Start;
            float[] expected = [.. Enumerable.Range(0, worldSize).SelectMany(r => Contributions.Of<float>(r, own, start: start))];
            Contributions.AssertEqual<float>(expected, output, $"all-to-all of {length}");
        }

        // From rank s to rank d go Count(s, d) elements, from none to some thousand.
        static int Count(int s, int d) => (s * 5 + d * 3) % 7 * 400;
        int[] sends = [.. Enumerable.Range(0, worldSize).Select(d => Count(rank, d))];
        int[] receives = [.. Enumerable.Range(0, worldSize).Select(s => Count(s, rank))];
        static long Start(int s, int d) => Enumerable.Range(0, d).Sum(before => Count(s, before));
        Half[] arrived = new Half[receives.Sum()];
        group.AllToAll<Half>(Contributions.Of<Half>(rank, sends.Sum()), arrived, sends, receives);
        Half[] all = [.. Enumerable.Range(0, worldSize).SelectMany(s => Contributions.Of<Half>(s, Count(s, rank), start: Start(s, rank)))];
        Contributions.AssertEqual<Half>(all, arrived, "variable all-to-all");
    });

    [Theory]
    [MemberData(nameof(Jobs))]
    public void A_barrier_waits_for_the_last(TransportKind transport, int worldSize)
    {
        int arrived = 0;
        Ranks.Run(worldSize, transport, group =>
        {
            for (int round = 1; round <= 20; round++)
            {
                Interlocked.Increment(ref arrived);
                group.Barrier();
                Assert.True(Volatile.Read(ref arrived) >= round * worldSize, "a rank left the barrier before all had come");
                group.Barrier();
            }
        });
    }

    private static (int Start, int Count) Part(int length, int worldSize, int rank)
    {
        int share = length / worldSize, longer = length % worldSize;
        return (rank * share + Math.Min(rank, longer), share + (rank < longer ? 1 : 0));
    }
}

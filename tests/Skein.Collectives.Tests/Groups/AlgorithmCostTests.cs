using Skein.TestKit;

namespace Skein.Collectives.Tests.Groups;

/// <summary>The bytes that docs/algorithms.md states, counted.</summary>
public sealed class AlgorithmCostTests
{
    private const int Signature = 40;

    public static TheoryData<AllReduceAlgorithm, int, int, long> AllReduces => new()
    {
        // ring: 2B(N - 1)/N to one neighbour
        { AllReduceAlgorithm.Ring, 2, 1_000_000, (4_000_000L * 2 * 1 / 2) + Signature },
        { AllReduceAlgorithm.Ring, 4, 1_000_000, (4_000_000L * 2 * 3 / 4) + Signature },
        // halving-doubling: 2B(N - 1)/N over log2 N partners; small: B log2 N
        { AllReduceAlgorithm.HalvingDoubling, 2, 1_000_000, (4_000_000L * 2 * 1 / 2) + Signature },
        { AllReduceAlgorithm.HalvingDoubling, 4, 1_000_000, (4_000_000L * 2 * 3 / 4) + (2 * Signature) },
        { AllReduceAlgorithm.HalvingDoubling, 4, 1_000, (4_000L * 2) + (2 * Signature) },
        // tree with two ranks: B either way
        { AllReduceAlgorithm.Tree, 2, 1_000_000, 4_000_000L + Signature },
    };

    [Theory]
    [MemberData(nameof(AllReduces))]
    public void An_all_reduce_sends_what_its_algorithm_costs(AllReduceAlgorithm algorithm, int ranks, int length, long bytes)
    {
        Ranks.Run(
            ranks,
            TransportKind.Tcp,
            group =>
            {
                long before = group.BytesSent;
                group.AllReduce(new float[length].AsSpan());
                Assert.Equal(bytes, group.BytesSent - before);
            },
            options => options with { Algorithm = algorithm });
    }

    [Fact]
    public void A_tree_sends_from_each_rank_once_to_its_parent_and_once_to_each_child()
    {
        // Rank 0 has the children 1, 2 and 4 of 8, rank 2 has 3, rank 4 has 5 and 6, rank 6 has 7.
        int[] children = [3, 0, 1, 0, 2, 0, 1, 0];
        const long Bytes = 40_000;
        Ranks.Run(
            8,
            TransportKind.Tcp,
            group =>
            {
                long before = group.BytesSent;
                group.AllReduce(new float[Bytes / 4].AsSpan());
                int messages = children[group.Rank] + (group.Rank == 0 ? 0 : 1);
                Assert.Equal(messages * (Bytes + Signature), group.BytesSent - before);
            },
            options => options with { Algorithm = AllReduceAlgorithm.Tree });
    }

    [Fact]
    public void Between_two_hosts_only_the_leaders_send_and_each_sends_B()
    {
        const long Bytes = 400_000;
        Ranks.Run(
            4,
            TransportKind.Auto,
            group =>
            {
                Assert.Equal("shm+tcp", group.TransportName);
                long before = group.BytesSent;
                group.AllReduce(new float[Bytes / 4].AsSpan());
                // A leader sends 2B(H - 1)/H = B to the other host and B to its one neighbour in the host.
                long expected = group.LocalRank == 0 ? 2 * (Bytes + Signature) : Bytes + Signature;
                Assert.Equal(expected, group.BytesSent - before);
            },
            options => options with { Algorithm = AllReduceAlgorithm.Hierarchical, HostId = options.Rank < 2 ? "a" : "b" });
    }

    [Theory]
    [InlineData(100, 3 * (100 + Signature))]
    [InlineData(300_000, (3 * 300_000) + Signature)]
    public void A_small_part_goes_to_every_rank_and_a_large_one_around_the_ring(int part, long bytes)
    {
        Ranks.Run(4, TransportKind.Tcp, group =>
        {
            long before = group.BytesSent;
            group.AllGather(new byte[part], new byte[4 * part].AsSpan());
            Assert.Equal(bytes, group.BytesSent - before);
        });
    }

    [Theory]
    [InlineData(1_000, 4_000)]
    [InlineData(1_000_000, 4_000_000)]
    public void In_shared_memory_each_rank_makes_its_buffer_readable_once(int length, long bytes)
    {
        Ranks.Run(4, TransportKind.SharedMemory, group =>
        {
            long before = group.BytesSent;
            group.AllReduce(new float[length].AsSpan());
            Assert.Equal(bytes, group.BytesSent - before);
        });
    }

    [Fact]
    public void A_buffer_in_shared_memory_is_written_only_to_the_peers()
    {
        Ranks.Run(4, TransportKind.SharedMemory, group =>
        {
            using SharedBuffer<float> buffer = group.AllocateShared<float>(1_000_000);
            long before = group.BytesSent;
            group.AllReduce(buffer.GetSpan());
            Assert.Equal(4_000_000L * 3 / 4, group.BytesSent - before);
            group.Barrier();
        });
    }
}

using Skein.TestKit;

namespace Skein.Collectives.Tests.Groups;

/// <summary>Several calls in flight, subgroups, and groups side by side.</summary>
public sealed class AsynchronousTests
{
    public static TheoryData<TransportKind, int> Jobs()
    {
        TheoryData<TransportKind, int> data = [];
        foreach (TransportKind transport in new[] { TransportKind.InProcess, TransportKind.SharedMemory, TransportKind.Tcp })
        {
            foreach (int worldSize in new[] { 2, 3, 4, 8 }) data.Add(transport, worldSize);
        }

        return data;
    }

    [Theory]
    [MemberData(nameof(Jobs))]
    public void Handles_complete_in_the_order_of_the_calls(TransportKind transport, int worldSize) => Ranks.Run(worldSize, transport, group =>
    {
        Random random = new(3);
        int[] lengths = [.. Enumerable.Range(0, 40).Select(_ => random.Next(4) * random.Next(20_000))];
        float[][] buffers = [.. lengths.Select(length => Contributions.Of<float>(group.Rank, length))];
        float[][] gathered = [.. lengths.Select(_ => new float[worldSize])];
        List<CollectiveHandle> handles = [];
        for (int i = 0; i < lengths.Length; i++)
        {
            handles.Add(group.AllReduceAsync(buffers[i].AsMemory()));
            handles.Add(group.AllGatherAsync<float>(new[] { (float)(i + group.Rank) }, gathered[i]));
            if (i % 5 == 0) handles.Add(group.BarrierAsync());
        }

        // Seen from the last: one that has completed has only completed ones before it.
        while (!handles[^1].IsCompleted)
        {
            int last = handles.FindLastIndex(handle => handle.IsCompleted);
            for (int i = 0; i < last; i++) Assert.True(handles[i].IsCompleted, $"call {last} completed before call {i}");
        }

        for (int i = 0; i < lengths.Length; i++)
        {
            Contributions.AssertEqual<float>(Contributions.Reduced<float>(worldSize, lengths[i], ReduceOperation.Sum), buffers[i], $"call {i}");
            Assert.Equal(Enumerable.Range(i, worldSize).Select(value => (float)value), gathered[i]);
        }
    });

    [Theory]
    [MemberData(nameof(Jobs))]
    public void A_blocking_call_comes_after_the_asynchronous_ones_before_it(TransportKind transport, int worldSize) => Ranks.Run(worldSize, transport, group =>
    {
        for (int round = 0; round < 20; round++)
        {
            long[] value = [1];
            CollectiveHandle first = group.AllReduceAsync(value.AsMemory());
            CollectiveHandle second = group.AllReduceAsync(value.AsMemory());
            group.AllReduce(value.AsSpan());
            Assert.True(first.IsCompleted && second.IsCompleted);
            Assert.Equal((long)worldSize * worldSize * worldSize, value[0]);
        }
    });

    [Theory]
    [MemberData(nameof(Jobs))]
    public void Subgroups_order_by_key_and_leave_out_negative_colors(TransportKind transport, int worldSize) => Ranks.Run(worldSize, transport, group =>
    {
        // Odd and even ranks, in reverse order; then without the last rank.
        ProcessGroup half = group.SplitAsync(group.Rank % 2, -group.Rank).Result!;
        int[] members = [.. Enumerable.Range(0, worldSize).Where(rank => rank % 2 == group.Rank % 2).Reverse()];
        Assert.Equal(members.Length, half.WorldSize);
        Assert.Equal(Array.IndexOf(members, group.Rank), half.Rank);
        int[] ranks = new int[members.Length];
        half.AllGather<int>([group.Rank], ranks);
        Assert.Equal(members, ranks);

        ProcessGroup? most = group.SplitAsync(group.Rank == worldSize - 1 ? -1 : 7, 0).Result;
        Assert.Equal(group.Rank == worldSize - 1, most is null);
        if (most is not null)
        {
            Assert.Equal(group.Rank, most.Rank);
            float[] sums = Contributions.Of<float>(most.Rank, 1009);
            most.AllReduce(sums.AsSpan());
            Contributions.AssertEqual<float>(Contributions.Reduced<float>(worldSize - 1, 1009, ReduceOperation.Sum), sums, "in a subgroup");
        }

        // A group of a group, and all of them at once.
        ProcessGroup alone = half.SplitAsync(half.Rank, 0).Result!;
        Assert.Equal(1, alone.WorldSize);
        int[][] counts = [[1], [1], [1]];
        CollectiveHandle[] handles =
        [
            group.AllReduceAsync(counts[0].AsMemory()), half.AllReduceAsync(counts[1].AsMemory()), alone.AllReduceAsync(counts[2].AsMemory()),
        ];
        foreach (CollectiveHandle handle in handles) handle.Wait();
        Assert.Equal([worldSize, members.Length, 1], counts.Select(count => count[0]));

        alone.DisposeAsync().AsTask().Wait();
        most?.DisposeAsync().AsTask().Wait();
        half.DisposeAsync().AsTask().Wait();
    });

    [Theory]
    [InlineData(TransportKind.SharedMemory)]
    [InlineData(TransportKind.Tcp)]
    public void Groups_may_be_used_at_once_from_several_threads(TransportKind transport) => Ranks.Run(3, transport, group =>
    {
        ProcessGroup[] groups = [.. Enumerable.Range(0, 3).Select(_ => group.SplitAsync(0, group.Rank).Result!)];
        Exception?[] errors = new Exception?[groups.Length];
        Thread[] threads = [.. groups.Select((own, i) => new Thread(() =>
        {
            try
            {
                for (int round = 0; round < 50; round++)
                {
                    int length = (i + 1) * 1000 + round;
                    double[] buffer = Contributions.Of<double>(own.Rank, length);
                    own.AllReduce(buffer.AsSpan());
                    Contributions.AssertEqual<double>(Contributions.Reduced<double>(3, length, ReduceOperation.Sum), buffer, $"group {i}");
                }
            }
            catch (Exception error)
            {
                errors[i] = error;
            }
        }))];
        foreach (Thread thread in threads) thread.Start();
        foreach (Thread thread in threads) thread.Join();
        Assert.All(errors, Assert.Null);
        foreach (ProcessGroup own in groups) own.DisposeAsync().AsTask().Wait();
    });

    [Theory]
    [InlineData(TransportKind.InProcess)]
    [InlineData(TransportKind.Tcp)]
    public void A_timeout_names_the_group(TransportKind transport)
    {
        // In other orders on the two ranks, so that the call alone could be any group's.
        Exception?[] outcomes = Ranks.Outcomes(
            2, transport,
            group =>
            {
                ProcessGroup first = group.SplitAsync(0, group.Rank).Result!, second = group.SplitAsync(3, group.Rank).Result!;
                Assert.Equal(["world", "world.0:0", "world.1:3"], [group.Name, first.Name, second.Name]);
                (group.Rank == 0 ? first : second).Barrier();
            },
            static options => options with { Timeout = TimeSpan.FromSeconds(2) });
        foreach (Exception? outcome in outcomes)
        {
            string message = Assert.IsType<CollectiveTimeoutException>(outcome).Message;
            Assert.Matches(@"in Barrier #\d+ of group world\.(0:0|1:3) \(ranks 0, 1\)", message);
        }
    }

    // A subgroup of one has nobody to wait for.
    [Theory]
    [InlineData(TransportKind.InProcess)]
    [InlineData(TransportKind.Tcp)]
    public void Subgroups_of_a_job_with_more_ranks_than_cores_share_them_too(TransportKind transport) => Ranks.Run(Environment.ProcessorCount + 2, transport, group =>
    {
        ProcessGroup pair = group.SplitAsync(group.Rank / 2, group.Rank).Result!;
        Assert.True(group.IsCrowded);
        Assert.Equal(pair.WorldSize > 1, pair.IsCrowded);
        pair.DisposeAsync().AsTask().Wait();
    });

    [Fact]
    public void Ranks_that_have_a_core_each_share_none() => Ranks.Run(Math.Min(2, Environment.ProcessorCount), TransportKind.InProcess, static group => Assert.False(group.IsCrowded));
}

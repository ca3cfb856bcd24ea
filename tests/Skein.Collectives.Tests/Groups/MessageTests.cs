using Skein.TestKit;

namespace Skein.Collectives.Tests.Groups;

public sealed class MessageTests
{
    [Theory]
    [MemberData(nameof(AsynchronousTests.Jobs), MemberType = typeof(AsynchronousTests))]
    public void Everybody_sends_to_everybody(TransportKind transport, int worldSize) => Ranks.Run(worldSize, transport, group =>
    {
        foreach (int length in new[] { 0, 1, 1009, 200_003 })
        {
            float[][] arrived = [.. Enumerable.Range(0, worldSize).Select(_ => new float[length])];
            List<CollectiveHandle> handles = [];
            for (int peer = 0; peer < worldSize; peer++) handles.Add(group.RecvAsync(arrived[peer].AsMemory(), peer, tag: 5));
            for (int peer = 0; peer < worldSize; peer++)
            {
                handles.Add(group.SendAsync<float>(Contributions.Of<float>(group.Rank, length, start: peer), peer, tag: 5));
            }

            foreach (CollectiveHandle handle in handles) handle.Wait();
            for (int peer = 0; peer < worldSize; peer++)
            {
                Contributions.AssertEqual<float>(Contributions.Of<float>(peer, length, start: group.Rank), arrived[peer], $"from {peer}");
            }
        }
    });

    [Theory]
    [MemberData(nameof(AsynchronousTests.Jobs), MemberType = typeof(AsynchronousTests))]
    public void Tags_tell_messages_apart_and_keep_their_order(TransportKind transport, int worldSize) => Ranks.Run(worldSize, transport, group =>
    {
        int next = (group.Rank + 1) % worldSize, previous = (group.Rank + worldSize - 1) % worldSize;
        List<CollectiveHandle> sends = [];
        for (int i = 0; i < 30; i++) sends.Add(group.SendAsync<int>(new[] { group.Rank, i }, next, tag: i % 3));
        int[] message = new int[2];
        foreach (int tag in new[] { 2, 0, 1 })
        {
            for (int i = tag; i < 30; i += 3)
            {
                Assert.Equal((previous, 2), group.Recv(message.AsSpan(), previous, tag));
                Assert.Equal([previous, i], message);
            }
        }

        foreach (CollectiveHandle send in sends) send.Wait();
    });

    [Theory]
    [MemberData(nameof(AsynchronousTests.Jobs), MemberType = typeof(AsynchronousTests))]
    public void Any_source_receives_from_all(TransportKind transport, int worldSize) => Ranks.Run(worldSize, transport, group =>
    {
        const int Each = 20;
        if (group.Rank != 0)
        {
            for (int i = 0; i < Each; i++) group.Send<long>(Contributions.Of<long>(group.Rank, 10 * group.Rank + i), 0, tag: 9);
            return;
        }

        int[] next = new int[worldSize];
        long[] buffer = new long[1000];
        for (int i = 0; i < Each * (worldSize - 1); i++)
        {
            (int source, int count) = group.Recv(buffer.AsSpan(), ProcessGroup.AnySource, tag: 9);
            Assert.Equal(10 * source + next[source]++, count);
            Contributions.AssertEqual<long>(Contributions.Of<long>(source, count), buffer.AsSpan(0, count), $"from {source}");
        }

        Assert.All(next[1..], count => Assert.Equal(Each, count));
    });

    [Theory]
    [MemberData(nameof(AsynchronousTests.Jobs), MemberType = typeof(AsynchronousTests))]
    public void Messages_and_collectives_do_not_disturb_each_other(TransportKind transport, int worldSize) => Ranks.Run(worldSize, transport, group =>
    {
        int next = (group.Rank + 1) % worldSize, previous = (group.Rank + worldSize - 1) % worldSize;
        for (int round = 0; round < 20; round++)
        {
            float[] sum = Contributions.Of<float>(group.Rank, 5003), arrived = new float[7001];
            CollectiveHandle receive = group.RecvAsync(arrived.AsMemory(), previous);
            CollectiveHandle reduce = group.AllReduceAsync(sum.AsMemory());
            group.Send<float>(Contributions.Of<float>(group.Rank, 7001), next);
            reduce.Wait();
            receive.Wait();
            Contributions.AssertEqual<float>(Contributions.Reduced<float>(worldSize, 5003, ReduceOperation.Sum), sum, "all-reduce");
            Contributions.AssertEqual<float>(Contributions.Of<float>(previous, 7001), arrived, "message");
        }
    });

    [Theory]
    [InlineData(TransportKind.SharedMemory)]
    [InlineData(TransportKind.Tcp)]
    public void A_message_of_another_type_or_too_long_is_an_error(TransportKind transport)
    {
        foreach (bool tooLong in new[] { true, false })
        {
            Exception?[] outcomes = Ranks.Outcomes(2, transport, group =>
            {
                if (group.Rank == 0) group.Send<float>(new float[10], 1);
                else if (tooLong) group.Recv(new float[9].AsSpan(), 0);
                else group.Recv(new int[10].AsSpan(), 0);
            });
            Assert.IsType<CollectiveMismatchException>(outcomes[1]);
        }
    }
}

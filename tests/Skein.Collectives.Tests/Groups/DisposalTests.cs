using System.Buffers;
using Skein.TestKit;

namespace Skein.Collectives.Tests.Groups;

/// <summary>A group that is disposed while others use it, and what calls that never began leave behind.</summary>
public sealed class DisposalTests
{
    [Theory]
    [InlineData(TransportKind.Tcp, true)]
    [InlineData(TransportKind.Tcp, false)]
    [InlineData(TransportKind.SharedMemory, true)]
    [InlineData(TransportKind.SharedMemory, false)]
    [InlineData(TransportKind.InProcess, true)]
    public void A_collective_under_way_ends_with_its_own_error_when_its_group_is_disposed(TransportKind transport, bool blocking)
    {
        using var ended = new ManualResetEventSlim();
        Exception? error = null;
        Ranks.Run(
            2, transport,
            group =>
            {
                if (group.Rank == 0)
                {
                    Assert.True(ended.Wait(Ranks.Limit));
                    return;
                }

                long before = group.BytesSent;
                var caller = new Thread(() =>
                {
                    try
                    {
                        float[] buffer = new float[10];
                        if (blocking) group.AllReduce(buffer.AsSpan());
                        else group.AllReduceAsync(buffer.AsMemory()).Wait();
                    }
                    catch (Exception failure)
                    {
                        error = failure;
                    }
                });
                caller.Start();
                Assert.True(SpinWait.SpinUntil(() => group.BytesSent > before, Ranks.Limit));
                group.DisposeAsync().AsTask().Wait();
                caller.Join();
                ended.Set();
            },
            static options => options with { Timeout = TimeSpan.FromSeconds(2) });
        Assert.IsType<CollectiveTimeoutException>(error);
    }

    [Theory]
    [InlineData(TransportKind.Tcp)]
    [InlineData(TransportKind.SharedMemory)]
    [InlineData(TransportKind.InProcess)]
    public void Messages_that_have_not_come_fail_when_their_group_is_disposed(TransportKind transport) => Ranks.Run(2, transport, group =>
    {
        if (group.Rank == 0) return;
        Exception? error = null;
        using var called = new ManualResetEventSlim();
        var caller = new Thread(() =>
        {
            called.Set();
            try
            {
                group.Recv<float>(new float[10], 0, tag: 1);
            }
            catch (Exception failure)
            {
                error = failure;
            }
        });
        CollectiveHandle[] handles = [group.RecvAsync<float>(new float[10], 0, tag: 2), group.RecvAsync<float>(new float[10], tag: 3)];
        caller.Start();
        called.Wait();
        group.DisposeAsync().AsTask().Wait();
        caller.Join();
        Assert.IsType<ObjectDisposedException>(error);
        Assert.All(handles, handle => Assert.Throws<ObjectDisposedException>(handle.Wait));
    });

    [Fact]
    public void Asynchronous_calls_with_wrong_arguments_leave_nothing_pinned() => Ranks.Run(2, TransportKind.InProcess, group =>
    {
        using Counted<float> three = new(3), four = new(4);
        using Counted<char> text = new(4);
        Action<ProcessGroup>[] wrong =
        [
            own => own.ReduceScatterAsync<float>(four.Memory, three.Memory),
            own => own.AllGatherAsync<float>(four.Memory, three.Memory),
            own => own.AllGatherAsync<float>(three.Memory, four.Memory, [1, 1]),
            own => own.AllGatherAsync<float>(three.Memory, four.Memory, [1]),
            own => own.BroadcastAsync(four.Memory, root: 2),
            own => own.ReduceAsync(four.Memory, root: -1),
            own => own.GatherAsync<float>(four.Memory, three.Memory, own.Rank),
            own => own.ScatterAsync<float>(four.Memory, three.Memory, own.Rank),
            own => own.AllToAllAsync<float>(four.Memory, three.Memory),
            own => own.AllToAllAsync<float>(four.Memory, three.Memory, [1, 1], [1, 2]),
            own => own.SendAsync<float>(four.Memory, destination: 2),
            own => own.RecvAsync(four.Memory, source: 2),
            own => own.AllReduceAsync(text.Memory),
            own => own.SendAsync<char>(text.Memory, 0),
            own => own.RecvAsync(text.Memory, 0),
        ];
        foreach (Action<ProcessGroup> call in wrong) Assert.ThrowsAny<Exception>(() => call(group));

        // What is right is let go at its end.
        group.AllReduceAsync(four.Memory).Wait();
        ProcessGroup ended = group.SplitAsync(0, group.Rank).Result!;
        ended.DisposeAsync().AsTask().Wait();
        Assert.Throws<ObjectDisposedException>(() => ended.AllReduceAsync(four.Memory));
        Assert.Throws<ObjectDisposedException>(() => ended.SendAsync<float>(four.Memory, 0));
        Assert.Equal(1, four.MostPins);
        Assert.All([three.Pins, four.Pins, text.Pins], pins => Assert.Equal(0, pins));
    });

    /// <summary>Memory that counts its pins.</summary>
    private sealed class Counted<T>(int length) : MemoryManager<T> where T : unmanaged
    {
        private readonly T[] values = GC.AllocateArray<T>(length, pinned: true);

        public int Pins { get; private set; }

        public int MostPins { get; private set; }

        public override Span<T> GetSpan() => values;

        public override unsafe MemoryHandle Pin(int elementIndex = 0)
        {
            Pins++;
            MostPins = Math.Max(MostPins, Pins);
            fixed (T* address = values) return new MemoryHandle(address + elementIndex, default, this);
        }

        public override void Unpin() => Pins--;

        protected override void Dispose(bool disposing) { }
    }
}

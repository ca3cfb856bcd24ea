#pragma warning disable
namespace Skein.Collectives;
public sealed class ProcessGroup : IAsyncDisposable
{
    public const int AnySource = -1;
    public static Task<ProcessGroup> InitializeAsync(ProcessGroupOptions? options = null, CancellationToken cancellationToken = default) => throw new NotImplementedException();
    public static Task<ProcessGroup[]> CreateInProcessAsync(int worldSize, ProcessGroupOptions? template = null) => throw new NotImplementedException();
    public int Rank => throw new NotImplementedException();
    public int WorldSize => throw new NotImplementedException();
    public int LocalRank => throw new NotImplementedException();
    public int LocalWorldSize => throw new NotImplementedException();
    public string TransportName => throw new NotImplementedException();
    public string AlgorithmName => throw new NotImplementedException();
    public TimeSpan Timeout => throw new NotImplementedException();
    public long BytesSent => throw new NotImplementedException();
    public Task<ProcessGroup?> SplitAsync(int color, int key) => throw new NotImplementedException();
    public SharedBuffer<T> AllocateShared<T>(int length) where T : unmanaged => throw new NotImplementedException();
    public void AllReduce<T>(Span<T> buffer, ReduceOperation operation = ReduceOperation.Sum) where T : unmanaged => throw new NotImplementedException();
    public CollectiveHandle AllReduceAsync<T>(Memory<T> buffer, ReduceOperation operation = ReduceOperation.Sum) where T : unmanaged => throw new NotImplementedException();
    public void Broadcast<T>(Span<T> buffer, int root = 0) where T : unmanaged => throw new NotImplementedException();
    public CollectiveHandle BroadcastAsync<T>(Memory<T> buffer, int root = 0) where T : unmanaged => throw new NotImplementedException();
    public void AllGather<T>(ReadOnlySpan<T> input, Span<T> output) where T : unmanaged => throw new NotImplementedException();
    public void AllGather<T>(ReadOnlySpan<T> input, Span<T> output, ReadOnlySpan<int> counts) where T : unmanaged => throw new NotImplementedException();
    public void Barrier() => throw new NotImplementedException();
    public ValueTask DisposeAsync() => throw new NotImplementedException();
}

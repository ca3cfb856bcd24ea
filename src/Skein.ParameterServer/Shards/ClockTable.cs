namespace Skein.ParameterServer.Shards;

/// <summary>
/// How many steps each worker has pushed: the vector clock of stale synchronous parallel (Ho et al. 2013). Not thread-safe.
/// </summary>
internal sealed class ClockTable
{
    private readonly SortedDictionary<int, long> clocks = [];

    /// <summary>The workers that still push, in order.</summary>
    public IReadOnlyCollection<int> Workers => clocks.Keys;

    /// <summary>The clock of the slowest worker; the largest number when nobody pushes any more.</summary>
    public long Minimum => clocks.Count == 0 ? long.MaxValue : clocks.Values.Min();

    public bool Contains(int worker) => clocks.ContainsKey(worker);

    /// <summary>The worker's clock, or null when it does not push (any more).</summary>
    public long? Of(int worker) => clocks.TryGetValue(worker, out long clock) ? clock : null;

    public void Set(int worker, long clock) => clocks[worker] = clock;

    public bool Remove(int worker) => clocks.Remove(worker);

    /// <summary>Those that <paramref name="clock"/> minus <paramref name="bound"/> waits for, in words.</summary>
    public string Behind(long clock, int bound) => string.Join(", ", clocks
        .Where(worker => worker.Value < clock - bound)
        .Select(worker => $"worker {worker.Key}, which is at clock {worker.Value}"));
}

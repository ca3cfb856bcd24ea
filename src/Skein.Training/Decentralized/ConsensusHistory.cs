namespace Skein.Training.Decentralized;

/// <summary>Decides when to measure, and keeps what was measured: ever rarer, so that the number of values is bounded. Not thread-safe.</summary>
internal sealed class ConsensusHistory(int every)
{
    private readonly List<ConsensusDistance> values = [];
    private long interval = every;

    public IReadOnlyList<ConsensusDistance> Values => values;

    /// <summary>Whether to measure after <paramref name="step"/> steps; the same answer on every peer.</summary>
    public bool IsDue(long step) => interval > 0 && step % interval == 0;

    public void Add(long step, double distance)
    {
        values.Add(new ConsensusDistance(step, distance));
        if (values.Count < GossipOptions.HistoryLimit) return;
        interval *= 2;
        values.RemoveAll(value => value.Step % interval != 0);
    }
}

/// <summary>How far the peers' parameters were apart: √(1/n Σ_i ‖x_i - x̄‖²).</summary>
/// <param name="Step">After how many steps.</param>
/// <param name="Distance">The distance.</param>
public readonly record struct ConsensusDistance(long Step, double Distance);

using Skein.Training.Compression;

namespace Skein.Training.Decentralized;

/// <summary>With whom peers talk, and how often their distance is measured. Immutable; the same on every peer.</summary>
public sealed record GossipOptions
{
    /// <summary>Who talks to whom. Default: a ring.</summary>
    public GossipTopology Topology { get; init; } = GossipTopology.Ring;

    /// <summary>Draws the random topology, and what random compressors draw.</summary>
    public long Seed { get; init; }

    /// <summary>
    /// After how many steps the peers first measure how far they are apart, 1 or more; 0 only at the end. Each time costs
    /// as much as a step of data parallel: an all-reduce of the model. When <see cref="HistoryLimit"/> values are there
    /// every other one is dropped, and the distance between measurements doubled. Default 0.
    /// </summary>
    public int MeasureEvery { get; init; }

    /// <summary>How the peers' messages are compressed (CHOCO-SGD); one that has a codec. Default: not (D-PSGD).</summary>
    public CompressionSpec Compression { get; init; } = CompressionSpec.None;

    /// <summary>
    /// With compression, by what part of the way a peer moves to its neighbours in each step, above 0 to 1: smaller for
    /// stronger compression, since too large a step keeps the peers apart. Default 0.1, which serves from top-k of one in ten on.
    /// </summary>
    public double ConsensusStep { get; init; } = 0.1;

    /// <summary>The most values of a history of consensus distances.</summary>
    public const int HistoryLimit = 200;

    /// <summary>Checks that the numbers are in range, and that there is such a graph of <paramref name="peers"/> peers.</summary>
    /// <exception cref="ArgumentException">Something does not fit; says what, its value, and what to give.</exception>
    public void Validate(int peers)
    {
        Topology.Validate(peers);
        if (MeasureEvery < 0) throw new ArgumentException($"the steps between two measurements are {MeasureEvery}: give a whole number from 0");
        if (ConsensusStep is not (> 0 and <= 1)) throw new ArgumentException($"the consensus step is {ConsensusStep}: give a number above 0 and at most 1");
        if (Compression.Method is CompressionMethod.PowerSgd or CompressionMethod.Auto or CompressionMethod.SignMajority)
        {
            throw new ArgumentException($"the compression is {Compression}, which gossip has not: give none, fp16, bf16, int8, qsgd:BITS, topk:RATIO, randomk:RATIO or signsgd");
        }
    }
}

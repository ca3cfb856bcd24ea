using Skein.Training.Compression;

namespace Skein.Training;

/// <summary>How <see cref="DataParallel"/> averages gradients. Immutable; the same on every rank.</summary>
public sealed record DataParallelOptions
{
    /// <summary>The most gradient bytes that one all-reduce carries. Default 25 MiB; a larger parameter gets a bucket of its own.</summary>
    public int BucketBytes { get; init; } = 25 << 20;

    /// <summary>The size of the first bucket when communication overlaps the backward pass, so that it starts early. Default 1 MiB.</summary>
    public int FirstBucketBytes { get; init; } = 1 << 20;

    /// <summary>
    /// Whether all-reduces start during the backward pass. Null (the default): in a <see cref="Trainer"/>'s steps, unless all ranks are on one
    /// host and keep its cores busy; not in a loop of one's own, which may run several backward passes, on any machine. True: there too,
    /// and of a step all but the last backward pass have to be in <see cref="DataParallel.NoSync"/>.
    /// </summary>
    public bool? Overlap { get; init; }

    /// <summary>How gradients are compressed; they have to be Float32 then. Null (the default): not at all.</summary>
    public CompressionOptions? Compression { get; init; }
}

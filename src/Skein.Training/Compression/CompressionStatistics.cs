namespace Skein.Training.Compression;

/// <summary>What compression has done on one rank so far.</summary>
/// <param name="BytesSent">The bytes that this rank has sent to average gradients, as rings and pairwise exchanges send them.</param>
/// <param name="UncompressedBytes">The bytes that a ring all-reduce of the same gradients in float32 would have sent.</param>
/// <param name="ComputeTime">Time spent compressing and decompressing.</param>
/// <param name="RelativeError">The mean over averages of |what was kept| / |what was to be sent|, in Euclidean norms.</param>
public readonly record struct CompressionStatistics(long BytesSent, long UncompressedBytes, TimeSpan ComputeTime, double RelativeError)
{
    /// <summary>How many times fewer bytes were sent; 1 when none were to be.</summary>
    public double Ratio => BytesSent > 0 ? (double)UncompressedBytes / BytesSent : 1;
}

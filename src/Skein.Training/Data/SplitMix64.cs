namespace Skein.Training.Data;

/// <summary>A small generator with a fixed, documented sequence (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").</summary>
internal struct SplitMix64
{
    private const ulong GoldenGamma = 0x9E3779B97F4A7C15;

    private ulong state;

    /// <summary>What comes next depends on this alone.</summary>
    public ulong State
    {
        readonly get => state;
        set => state = value;
    }

    /// <summary>A stream for each pair; neighbouring pairs give unrelated streams.</summary>
    public SplitMix64(long seed, long stream) => state = Mix((ulong)seed + GoldenGamma) + (ulong)stream;

    /// <summary>Uniform over [0, bound), by multiplication with rejection (Lemire 2019), so without bias.</summary>
    public int Next(int bound)
    {
        ulong product = (NextUInt64() >> 32) * (ulong)bound;
        if ((uint)product < (uint)bound)
        {
            uint threshold = unchecked((uint)-bound) % (uint)bound;
            while ((uint)product < threshold) product = (NextUInt64() >> 32) * (ulong)bound;
        }

        return (int)(product >> 32);
    }

    /// <summary>Uniform over [0, 1), in steps of 2⁻⁵³.</summary>
    public double NextDouble() => (NextUInt64() >> 11) * (1.0 / (1UL << 53));

    private ulong NextUInt64() => Mix(state = unchecked(state + GoldenGamma));

    private static ulong Mix(ulong z)
    {
        z = unchecked((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9);
        z = unchecked((z ^ (z >> 27)) * 0x94D049BB133111EB);
        return z ^ (z >> 31);
    }
}

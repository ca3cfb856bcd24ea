using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using Skein.Training.Data;

namespace Skein.Training.Compression.Codecs;

/// <summary>Sixteen streams of Marsaglia's xorshift32 (2003) side by side.</summary>
internal struct VectorRandom
{
    private const float Unit = 1f / (1 << 24);

    private Vector512<uint> state;

    /// <summary>A generator for each pair; neighbouring pairs give unrelated ones.</summary>
    public VectorRandom(long seed, long stream)
    {
        var seeds = new SplitMix64(seed, stream);
        Span<uint> lanes = stackalloc uint[Vector512<uint>.Count];
        // Zero is xorshift's fixed point.
        foreach (ref uint lane in lanes) lane = (uint)seeds.Next(int.MaxValue) + 1;
        state = Vector512.Create<uint>(lanes);
    }

    /// <summary>Uniform over [0, 1), in steps of 2⁻²⁴.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public Vector512<float> Next()
    {
        Vector512<uint> x = state;
        x ^= x << 13;
        x ^= x >>> 17;
        x ^= x << 5;
        state = x;
        return Vector512.ConvertToSingle((x >>> 8).AsInt32()) * Unit;
    }
}

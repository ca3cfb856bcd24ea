using System.Diagnostics;
using Skein.Training.Compression;
using TensorPrimitives = System.Numerics.Tensors.TensorPrimitives;

namespace Skein.Training.Decentralized;

/// <summary>
/// What all neighbours know of a peer's parameters in CHOCO-SGD (Koloskova, Stich and Jaggi 2019, algorithm 2): x̂, to which
/// every compressed difference that was sent is added, and the weighted sum Σ_j W_ij x̂_j of the peer's and its neighbours'
/// copies, which is all that is needed of theirs. Not thread-safe.
/// </summary>
internal sealed class PublicCopies
{
    private readonly Codec codec;
    private readonly float[] own;
    private readonly float[] mixed;
    private readonly float[] decoded;
    private double errors;
    private long messages;
    private long ticks;

    /// <summary>All copies begin with <paramref name="initial"/>, which is the same on every peer.</summary>
    public PublicCopies(CompressionSpec compression, long seed, ReadOnlySpan<float> initial)
    {
        codec = compression.CreateCodec(seed);
        own = initial.ToArray();
        mixed = initial.ToArray();
        decoded = new float[initial.Length];
        Capacity = codec.MaxEncodedLength(initial.Length);
    }

    /// <summary>How long <see cref="Publish"/> has taken.</summary>
    public TimeSpan ComputeTime => Stopwatch.GetElapsedTime(0, ticks);

    /// <summary>The mean over messages of what was left out, relative to the difference.</summary>
    public double RelativeError => messages == 0 ? 0 : errors / messages;

    /// <summary>The most bytes of a message.</summary>
    public int Capacity { get; }

    /// <summary>Writes the compressed difference of <paramref name="values"/> to the own copy, and moves the copy by it.</summary>
    /// <param name="values">The parameters.</param>
    /// <param name="selfWeight">W_ii.</param>
    /// <param name="payload">At least <see cref="Capacity"/> bytes.</param>
    /// <returns>The bytes used.</returns>
    public int Publish(ReadOnlySpan<float> values, double selfWeight, Span<byte> payload)
    {
        long start = Stopwatch.GetTimestamp();
        TensorPrimitives.Subtract(values, own, decoded);
        double wanted = TensorPrimitives.Norm<float>(decoded);
        int length = codec.Encode(decoded, payload);
        Mix(payload[..length], selfWeight);
        TensorPrimitives.Add(own, decoded, own);
        if (wanted > 0) errors += TensorPrimitives.Distance<float>(values, own) / wanted;
        messages++;
        ticks += Stopwatch.GetTimestamp() - start;
        return length;
    }

    /// <summary>Moves a copy by what was received, or published.</summary>
    /// <exception cref="InvalidDataException">No such payload is encoded from as many values.</exception>
    public void Mix(ReadOnlySpan<byte> payload, double weight)
    {
        codec.Decode(payload, decoded);
        TensorPrimitives.MultiplyAdd(decoded, (float)weight, mixed, mixed);
    }

    /// <summary>γ Σ_j W_ij (x̂_j - x̂_i).</summary>
    public void Change(double consensusStep, Span<float> change)
    {
        TensorPrimitives.Subtract(mixed, own, change);
        TensorPrimitives.Multiply(change, (float)consensusStep, change);
    }
}

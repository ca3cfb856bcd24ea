using System.Buffers.Binary;
using System.Runtime.InteropServices;
using Skein.Training.Data;

namespace Skein.Training.Compression.Codecs;

/// <summary>
/// Values at random places (Stich et al. 2018, "Sparsified SGD with memory"): one in each of as many equal stretches.
/// Ranks with the same seed and position choose the same places, so that their values can be summed as they are.
/// </summary>
/// <param name="ratio">What part of the values is kept, above 0 to 1; at least one value is.</param>
/// <param name="seed">Chooses the places.</param>
internal sealed class RandomKCodec(double ratio, long seed) : Codec
{
    /// <summary>The bytes before the values: where in the sequence of random numbers the places come from.</summary>
    public const int Head = 2 * sizeof(long);

    public override int MaxEncodedLength(int count) => checked(Head + (Kept(count) * sizeof(float)));

    public override string ToString() => $"randomk:{ratio}";

    public override void Add(ReadOnlySpan<byte> payload, Span<float> sum)
    {
        CheckLength(payload, sum.Length);
        var random = new SplitMix64(BinaryPrimitives.ReadInt64LittleEndian(payload), BinaryPrimitives.ReadInt64LittleEndian(payload[sizeof(long)..]));
        ReadOnlySpan<float> values = MemoryMarshal.Cast<byte, float>(payload[Head..]);
        for (int i = 0; i < values.Length; i++)
        {
            int index = Place(i, values.Length, sum.Length, ref random);
            if (!(MathF.Abs(values[i]) <= LargestValue)) throw Bad($"has value {values[i]} at index {index}");
            sum[index] += values[i];
        }
    }

    private protected override int EncodeValues(ReadOnlySpan<float> values, Span<byte> payload)
    {
        BinaryPrimitives.WriteInt64LittleEndian(payload, seed);
        BinaryPrimitives.WriteInt64LittleEndian(payload[sizeof(long)..], Position);
        var random = new SplitMix64(seed, Position);
        Span<float> kept = MemoryMarshal.Cast<byte, float>(payload[Head..]);
        for (int i = 0; i < kept.Length; i++) kept[i] = values[Place(i, kept.Length, values.Length, ref random)];
        return payload.Length;
    }

    private int Kept(int count) => count == 0 ? 0 : Math.Clamp((int)Math.Round(count * ratio), 1, count);

    private static int Place(int stretch, int stretches, int count, ref SplitMix64 random)
    {
        int start = (int)((long)stretch * count / stretches);
        int end = (int)((long)(stretch + 1) * count / stretches);
        return start + random.Next(end - start);
    }
}

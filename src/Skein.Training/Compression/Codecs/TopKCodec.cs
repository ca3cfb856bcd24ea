using System.Buffers.Binary;
using System.Numerics.Tensors;
using System.Runtime.InteropServices;
using Skein.Collectives;

namespace Skein.Training.Compression.Codecs;

/// <summary>
/// The values of largest magnitude (Aji and Heafield 2017), in binary16 beside a common scale, and the gaps between them
/// in a Golomb-Rice code (Rice 1979): about 3 bytes for each at one in a hundred.
/// </summary>
/// <param name="ratio">What part of the values is kept, above 0 to 1; at least one value is.</param>
/// <param name="warmupSteps">
/// Over so many payloads the ratio falls exponentially from a quarter (Lin et al. 2018, "Deep gradient compression",
/// section 3.3). 0 or more.
/// </param>
internal sealed class TopKCodec(double ratio, int warmupSteps = 0) : Codec
{
    private const double WarmupRatio = 0.25;
    private const int Head = sizeof(int) + sizeof(float);

    public override bool HasFixedLength => false;

    public override int MaxEncodedLength(int count)
    {
        int kept = Kept(count, warmupSteps > 0 ? Math.Max(ratio, WarmupRatio) : ratio);
        return checked((int)(Head + ((long)kept * sizeof(ushort)) + ((MaxGapBits(count, kept) + 7) / 8)));
    }

    public override string ToString() => $"topk:{ratio}";

    public override void Add(ReadOnlySpan<byte> payload, Span<float> sum)
    {
        if (payload.Length < Head) throw Bad($"has {payload.Length} bytes; at least {Head} are needed");
        int kept = BinaryPrimitives.ReadInt32LittleEndian(payload);
        if (kept < 0 || kept > sum.Length || payload.Length - Head < (long)kept * sizeof(ushort)) throw Bad($"of {payload.Length} bytes claims {kept} of {sum.Length} values");
        float scale = ReadScale(payload[sizeof(int)..], 0);
        ReadOnlySpan<Half> values = MemoryMarshal.Cast<byte, Half>(payload.Slice(Head, kept * sizeof(ushort)));
        var gaps = new BitReader(payload[(Head + (kept * sizeof(ushort)))..]);
        int low = LowBits(sum.Length, kept);
        long index = -1;
        foreach (Half value in values)
        {
            index += 1 + gaps.ReadRice(low);
            if (index >= sum.Length) throw Bad($"has index {index}; there are {sum.Length} values");
            if (!Half.IsFinite(value)) throw Bad($"has value {value} at index {index}");
            sum[(int)index] += (float)value * scale;
        }
    }

    private protected override int EncodeValues(ReadOnlySpan<float> values, Span<byte> payload)
    {
        double present = Position < warmupSteps ? Math.Max(ratio, WarmupRatio * Math.Pow(ratio / WarmupRatio, (double)Position / warmupSteps)) : ratio;
        using var largest = new Largest(values, Kept(values.Length, present));
        ReadOnlySpan<int> indices = largest.Indices;
        Span<float> kept = largest.Values;
        float scale = kept.IsEmpty ? 0 : MathF.Abs(TensorPrimitives.MaxMagnitude<float>(kept));
        if (scale < QuantizedLevels.Smallest)
        {
            // So small a scale has no reciprocal; what it would carry stays behind.
            indices = [];
            kept = [];
            scale = 0;
        }

        BinaryPrimitives.WriteInt32LittleEndian(payload, kept.Length);
        BinaryPrimitives.WriteSingleLittleEndian(payload[sizeof(int)..], scale);
        Span<byte> halves = payload.Slice(Head, kept.Length * sizeof(ushort));
        TensorPrimitives.Multiply(kept, 1 / scale, kept);
        ReducedPrecision.Narrow(kept, MemoryMarshal.Cast<byte, Half>(halves));

        var gaps = new BitWriter(payload[(Head + halves.Length)..]);
        int low = LowBits(values.Length, kept.Length);
        int before = -1;
        foreach (int index in indices)
        {
            gaps.WriteRice((uint)(index - before - 1), low);
            before = index;
        }

        gaps.Complete();
        return Head + halves.Length + gaps.Length;
    }

    private static int Kept(int count, double ratio) => count == 0 ? 0 : Math.Clamp((int)Math.Round(count * ratio), 1, count);

    /// <summary>Rice's parameter for gaps that are geometrically distributed.</summary>
    private static int LowBits(int count, int kept) => kept == 0 ? 0 : Math.Max(0, (int)Math.Ceiling(Math.Log2(Math.Log(2) * count / kept)));

    /// <summary>The gaps sum up to at most the count, so their high parts do to at most its high part.</summary>
    private static long MaxGapBits(int count, int kept)
    {
        int low = LowBits(count, kept);
        // Fewer values than may be kept have more low bits each, but then not more in all.
        return (kept * (low + 2L)) + (count >> low) + 32;
    }
}

using System.Buffers.Binary;
using System.Runtime.InteropServices;

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

    private int[] selected = [];

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
            index += 1 + ((long)gaps.ReadUnary() << low) + gaps.Read(low);
            if (index >= sum.Length) throw Bad($"has index {index}; there are {sum.Length} values");
            if (!Half.IsFinite(value)) throw Bad($"has value {value} at index {index}");
            sum[(int)index] += (float)value * scale;
        }
    }

    private protected override int EncodeValues(ReadOnlySpan<float> values, Span<byte> payload)
    {
        double present = Position < warmupSteps ? Math.Max(ratio, WarmupRatio * Math.Pow(ratio / WarmupRatio, (double)Position / warmupSteps)) : ratio;
        int most = Kept(values.Length, present);
        if (selected.Length < most) selected = new int[most];
        ReadOnlySpan<int> indices = selected.AsSpan(0, Largest.Select(values, selected.AsSpan(0, most)));

        float scale = 0;
        foreach (int index in indices) scale = MathF.Max(scale, MathF.Abs(values[index]));
        // So small a scale has no reciprocal; what it would carry stays behind.
        if (scale < QuantizedLevels.Smallest) indices = [];
        float toHalf = 1 / scale;

        BinaryPrimitives.WriteInt32LittleEndian(payload, indices.Length);
        BinaryPrimitives.WriteSingleLittleEndian(payload[sizeof(int)..], indices.IsEmpty ? 0 : scale);
        Span<Half> halves = MemoryMarshal.Cast<byte, Half>(payload.Slice(Head, indices.Length * sizeof(ushort)));
        int gapsAt = Head + (indices.Length * sizeof(ushort));
        var gaps = new BitWriter(payload[gapsAt..]);
        int low = LowBits(values.Length, indices.Length);
        int before = -1;
        for (int i = 0; i < indices.Length; i++)
        {
            halves[i] = (Half)(values[indices[i]] * toHalf);
            uint gap = (uint)(indices[i] - before - 1);
            gaps.WriteUnary((int)(gap >> low));
            gaps.Write(gap & ((1u << low) - 1), low);
            before = indices[i];
        }

        gaps.Complete();
        return gapsAt + gaps.Length;
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

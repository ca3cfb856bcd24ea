using System.Buffers.Binary;
using System.Numerics.Tensors;
using System.Runtime.Intrinsics;

namespace Skein.Training.Compression.Codecs;

/// <summary>
/// One bit for each value: its sign. With a scale, each block's mean magnitude (Karimireddy et al. 2019, "Error feedback
/// fixes signSGD", algorithm 1), or without, as +1 and -1 (Bernstein et al. 2018, "signSGD").
/// </summary>
/// <param name="scaled">Whether blocks have a scale.</param>
internal sealed class SignCodec(bool scaled) : Codec
{
    private const int BlockSize = 1024;
    private const int Group = 16;

    public override int MaxEncodedLength(int count) => checked(ScaleBytes(count) + (Blocks(count, Group) * sizeof(ushort)));

    public override string ToString() => scaled ? "signsgd" : "signsgd:majority";

    public override void Add(ReadOnlySpan<byte> payload, Span<float> sum)
    {
        CheckLength(payload, sum.Length);
        ReadOnlySpan<byte> signs = payload[ScaleBytes(sum.Length)..];
        for (int start = 0, block = 0; start < sum.Length; start += BlockSize, block++)
        {
            float scale = scaled ? ReadScale(payload, block) : 1;
            AddSigns(signs[(start / 8)..], scale, sum.Slice(start, Math.Min(BlockSize, sum.Length - start)));
        }
    }

    private protected override int EncodeValues(ReadOnlySpan<float> values, Span<byte> payload)
    {
        Span<byte> signs = payload[ScaleBytes(values.Length)..];
        for (int start = 0, block = 0; start < values.Length; start += BlockSize, block++)
        {
            ReadOnlySpan<float> those = values.Slice(start, Math.Min(BlockSize, values.Length - start));
            if (scaled) BinaryPrimitives.WriteSingleLittleEndian(payload[(block * sizeof(float))..], TensorPrimitives.SumOfMagnitudes(those) / those.Length);
            WriteSigns(those, signs[(start / 8)..]);
        }

        return payload.Length;
    }

    private int ScaleBytes(int count) => scaled ? Blocks(count, BlockSize) * sizeof(float) : 0;

    private void WriteSigns(ReadOnlySpan<float> values, Span<byte> signs)
    {
        Span<float> padded = stackalloc float[Group];
        for (int i = 0; i < values.Length; i += Group)
        {
            int count = Math.Min(Group, values.Length - i);
            padded[count..].Clear();
            values.Slice(i, count).CopyTo(padded);
            Vector512<float> value = Vector512.Create<float>(padded);
            ulong negative = Vector512.LessThan(value, Vector512<float>.Zero).ExtractMostSignificantBits();
            ulong zero = Vector512.Equals(value, Vector512<float>.Zero).ExtractMostSignificantBits();
            // A tied vote has no sign: it alternates from value to value and from payload to payload.
            ulong ties = (Position & 1) == 0 ? 0x5555u : 0xAAAAu;
            BinaryPrimitives.WriteUInt16LittleEndian(signs[(i / 8)..], (ushort)(negative | (zero & ties)));
        }
    }

    private static void AddSigns(ReadOnlySpan<byte> signs, float scale, Span<float> sum)
    {
        Vector512<uint> lanes = Vector512.Create(1u, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768);
        Vector512<float> positive = Vector512.Create(scale);
        int i = 0;
        for (; i <= sum.Length - Group; i += Group)
        {
            Vector512<uint> bits = Vector512.Create((uint)BinaryPrimitives.ReadUInt16LittleEndian(signs[(i / 8)..])) & lanes;
            Vector512<float> isPositive = Vector512.Equals(bits, Vector512<uint>.Zero).AsSingle();
            Span<float> target = sum[i..];
            (Vector512.Create<float>(target) + Vector512.ConditionalSelect(isPositive, positive, -positive)).CopyTo(target);
        }

        for (; i < sum.Length; i++) sum[i] += (signs[i / 8] >> (i % 8) & 1) == 0 ? scale : -scale;
    }
}

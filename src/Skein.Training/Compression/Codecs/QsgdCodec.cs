using System.Buffers;
using System.Numerics.Tensors;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace Skein.Training.Compression.Codecs;

/// <summary>
/// QSGD (Alistarh et al. 2017): every value becomes one of the two nearest multiples of its block's scale, at random so
/// that the expected value is the value itself. The scale makes the block's largest magnitude 2^(bits-1) - 1, as in the
/// paper's experiments. Levels are written in a fixed number of bits, or in Elias' gamma code (1975) where that is shorter.
/// </summary>
internal sealed class QsgdCodec : Codec
{
    private const int BlockSize = 512;
    private const byte Fixed = 0;
    private const byte Elias = 1;

    private readonly int bits;
    private readonly int largestLevel;
    private readonly long seed;

    /// <summary>Bits 2 to 8 for each value, its sign included.</summary>
    public QsgdCodec(int bits, long seed)
    {
        this.bits = bits;
        this.seed = seed;
        largestLevel = (1 << (bits - 1)) - 1;
    }

    public override bool HasFixedLength => false;

    public override bool IsUnbiased => true;

    public override int MaxEncodedLength(int count) => checked(1 + (Blocks(count, BlockSize) * sizeof(float)) + PackedBits.Length(count, bits));

    public override string ToString() => $"qsgd:{bits}";

    public override void Add(ReadOnlySpan<byte> payload, Span<float> sum)
    {
        int head = 1 + (Blocks(sum.Length, BlockSize) * sizeof(float));
        if (payload.Length < head) throw Bad($"has {payload.Length} bytes; {sum.Length} values take at least {head}");
        byte[] rented = ArrayPool<byte>.Shared.Rent(sum.Length);
        try
        {
            Span<sbyte> levels = MemoryMarshal.Cast<byte, sbyte>(rented.AsSpan(0, sum.Length));
            ReadLevels(payload[0], payload[head..], levels);
            for (int start = 0, block = 0; start < sum.Length; start += BlockSize, block++)
            {
                int count = Math.Min(BlockSize, sum.Length - start);
                QuantizedLevels.Add(levels.Slice(start, count), ReadScale(payload[1..], block), sum.Slice(start, count));
            }
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(rented);
        }
    }

    private protected override int EncodeValues(ReadOnlySpan<float> values, Span<byte> payload)
    {
        Span<float> scales = MemoryMarshal.Cast<byte, float>(payload[1..])[..Blocks(values.Length, BlockSize)];
        Span<byte> body = payload[(1 + (scales.Length * sizeof(float)))..];
        byte[] rented = ArrayPool<byte>.Shared.Rent(values.Length);
        try
        {
            Span<sbyte> levels = MemoryMarshal.Cast<byte, sbyte>(rented.AsSpan(0, values.Length));
            var random = new VectorRandom(seed, Position);
            for (int start = 0, block = 0; start < values.Length; start += BlockSize, block++)
            {
                int count = Math.Min(BlockSize, values.Length - start);
                scales[block] = Round(values.Slice(start, count), levels.Slice(start, count), ref random);
            }

            bool elias = EliasGamma.Bits(levels) < 8L * PackedBits.Length(levels.Length, bits);
            payload[0] = elias ? Elias : Fixed;
            return payload.Length - body.Length + (elias ? EliasGamma.Write(levels, body) : PackedBits.Write(levels, bits, largestLevel, body));
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(rented);
        }
    }

    private float Round(ReadOnlySpan<float> values, Span<sbyte> levels, ref VectorRandom random)
    {
        float largest = MathF.Abs(TensorPrimitives.MaxMagnitude(values));
        if (largest < QuantizedLevels.Smallest)
        {
            levels.Clear();
            return 0;
        }

        float toLevel = largestLevel / largest;
        int i = 0;
        for (; i <= values.Length - Vector512<sbyte>.Count; i += Vector512<sbyte>.Count)
        {
            Vector512<short> low = Vector512.Narrow(Draw(values[i..], ref random), Draw(values[(i + 16)..], ref random));
            Vector512<short> high = Vector512.Narrow(Draw(values[(i + 32)..], ref random), Draw(values[(i + 48)..], ref random));
            Vector512.Narrow(low, high).CopyTo(levels[i..]);
        }

        Span<float> tail = stackalloc float[Vector512<float>.Count];
        for (; i < values.Length; i += tail.Length)
        {
            int count = Math.Min(tail.Length, values.Length - i);
            tail.Clear();
            values.Slice(i, count).CopyTo(tail);
            Vector512<int> drawn = Draw(tail, ref random);
            for (int lane = 0; lane < count; lane++) levels[i + lane] = (sbyte)drawn[lane];
        }

        return largest / largestLevel;

        Vector512<int> Draw(ReadOnlySpan<float> from, ref VectorRandom source)
        {
            Vector512<int> level = Vector512.ConvertToInt32Native(Vector512.Floor((Vector512.Create(from) * toLevel) + source.Next()));
            // Rounding may have made the sum the next whole number.
            return Vector512.Clamp(level, Vector512.Create(-largestLevel), Vector512.Create(largestLevel));
        }
    }

    private void ReadLevels(byte code, ReadOnlySpan<byte> body, Span<sbyte> levels)
    {
        switch (code)
        {
            case Fixed:
                int length = PackedBits.Length(levels.Length, bits);
                if (body.Length != length) throw Bad($"has {body.Length} bytes of levels; {levels.Length} take {length}");
                PackedBits.Read(body, bits, largestLevel, levels);
                break;
            case Elias:
                EliasGamma.Read(body, levels);
                break;
            default:
                throw Bad($"has levels in code {code}; known are 0 and 1");
        }

        foreach (sbyte level in levels)
        {
            if (level > largestLevel || level < -largestLevel) throw Bad($"has level {level}; the largest is {largestLevel}");
        }
    }
}

using System.Runtime.InteropServices;

namespace Skein.Training.Compression;

/// <summary>
/// Turns a vector of <see cref="float"/> into fewer bytes and back, with some loss. Made by
/// <see cref="CompressionSpec.CreateCodec"/>.
/// </summary>
/// <remarks>
/// Values have to be finite and within ±<see cref="LargestValue"/>. What a codec that draws at random encodes depends only on its seed, its
/// <see cref="Position"/> and the values. Not thread-safe.
/// </remarks>
public abstract class Codec
{
    /// <summary>The largest magnitude that values may have: with room below a float's end for sums over ranks.</summary>
    public const float LargestValue = 1e34f;

    /// <summary>How many payloads were encoded so far: with the seed, the whole state of a codec.</summary>
    public long Position { get; set; }

    /// <summary>Whether every payload for equally many values has <see cref="MaxEncodedLength"/> bytes.</summary>
    public virtual bool HasFixedLength => true;

    /// <summary>Whether a payload's expected value, over the codec's random choices, is what was encoded.</summary>
    public virtual bool IsUnbiased => false;

    /// <summary>The most bytes that <paramref name="count"/> values take.</summary>
    public abstract int MaxEncodedLength(int count);

    /// <summary>Encodes <paramref name="values"/>.</summary>
    /// <param name="values">Any number of finite values, none included.</param>
    /// <param name="payload">At least <see cref="MaxEncodedLength"/> bytes.</param>
    /// <returns>The bytes used.</returns>
    public int Encode(ReadOnlySpan<float> values, Span<byte> payload)
    {
        int most = MaxEncodedLength(values.Length);
        if (payload.Length < most) throw new ArgumentException($"{values.Length} values may take {most} bytes, but there are {payload.Length}", nameof(payload));
        int length = EncodeValues(values, payload[..most]);
        Position++;
        return length;
    }

    /// <summary>Adds what <paramref name="payload"/> stands for to <paramref name="sum"/>, which is as long as what was encoded.</summary>
    /// <exception cref="InvalidDataException">No such payload is encoded from as many values; <paramref name="sum"/> may be changed in part.</exception>
    public abstract void Add(ReadOnlySpan<byte> payload, Span<float> sum);

    /// <summary>Overwrites <paramref name="values"/>, which is as long as what was encoded, by what <paramref name="payload"/> stands for.</summary>
    /// <exception cref="InvalidDataException">No such payload is encoded from as many values.</exception>
    public void Decode(ReadOnlySpan<byte> payload, Span<float> values)
    {
        values.Clear();
        Add(payload, values);
    }

    private protected abstract int EncodeValues(ReadOnlySpan<float> values, Span<byte> payload);

    private protected static int Blocks(int count, int size) => (int)(((long)count + size - 1) / size);

    private protected void CheckLength(ReadOnlySpan<byte> payload, int count)
    {
        int expected = MaxEncodedLength(count);
        if (payload.Length != expected) throw Bad($"has {payload.Length} bytes; {count} values take {expected}");
    }

    private protected InvalidDataException Bad(string why) => new($"a payload of codec {this} {why}");

    /// <summary>The payload's next number, which is a scale.</summary>
    private protected float ReadScale(ReadOnlySpan<byte> payload, int block)
    {
        float scale = MemoryMarshal.Read<float>(payload[(block * sizeof(float))..]);
        return scale is >= 0 and <= LargestValue ? scale : throw Bad($"has scale {scale} for block {block}; a scale lies from 0 to {LargestValue}");
    }
}

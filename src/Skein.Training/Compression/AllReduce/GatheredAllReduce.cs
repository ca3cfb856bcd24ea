using System.Numerics.Tensors;
using Skein.Collectives;

namespace Skein.Training.Compression.AllReduce;

/// <summary>Every rank's payload goes to every other: for payloads so small that their number does not matter.</summary>
internal sealed class GatheredAllReduce : CompressedAllReduce
{
    private readonly Codec codec;
    private readonly byte[] payload;
    private readonly int[] lengths;
    private byte[] received = [];

    public GatheredAllReduce(ProcessGroup group, Codec codec, int length) : base(group)
    {
        this.codec = codec;
        payload = Buffer(codec.MaxEncodedLength(length));
        lengths = new int[group.WorldSize];
    }

    public override bool NeedsFeedback => true;

    public override bool IsSparse => true;

    public override void Average(Span<float> values, Span<float> kept)
    {
        int length = codec.Encode(values, payload);
        Keep(codec, payload.AsSpan(0, length), values, kept);
        long start = Now();
        Group.AllGather([length], lengths.AsSpan());
        int total = Lengths.Check(lengths, payload.Length);
        if (received.Length < total) received = Buffer(total);
        Group.AllGather(payload.AsSpan(0, length), received.AsSpan(0, total), lengths);
        Communicated(start, (Group.WorldSize - 1) * (total + (lengths.Length * sizeof(int))) / Group.WorldSize);

        values.Clear();
        int offset = 0;
        foreach (int count in lengths)
        {
            codec.Add(received.AsSpan(offset, count), values);
            offset += count;
        }

        TensorPrimitives.Multiply(values, 1f / Group.WorldSize, values);
    }

    public override void Save(BinaryWriter writer) => writer.Write(codec.Position);

    public override void Load(BinaryReader reader) => codec.Position = reader.ReadInt64();
}

using Skein.Collectives;
using Skein.Training.Compression.Codecs;

namespace Skein.Training.Compression.AllReduce;

/// <summary>One ordinary all-reduce of binary16, once the ranks have agreed on the scales.</summary>
internal sealed class Float16AllReduce : CompressedAllReduce
{
    private readonly Float16Codec codec = new();
    private readonly byte[] payload;

    public Float16AllReduce(ProcessGroup group, int length) : base(group) => payload = Buffer(codec.MaxEncodedLength(length));

    public override bool NeedsFeedback => false;

    public override void Average(Span<float> values, Span<float> kept)
    {
        Span<float> scales = Float16Codec.Scales(payload, values.Length);
        Span<Half> narrow = Float16Codec.Values(payload, values.Length);
        Float16Codec.Measure(values, scales);
        long start = Now();
        Group.AllReduce(scales, ReduceOperation.Max);
        Communicated(start, RingBytes(scales.Length * sizeof(float)));

        Float16Codec.Narrow(values, scales, narrow);
        Keep(codec, payload, values, kept);
        start = Now();
        Group.AllReduce(narrow, ReduceOperation.Average);
        Communicated(start, RingBytes(payload.Length - (scales.Length * sizeof(float))));
        codec.Decode(payload, values);
    }
}

using Skein.Collectives;

namespace Skein.Training.Compression.AllReduce;

/// <summary>Everything is sent.</summary>
internal sealed class PlainAllReduce(ProcessGroup group) : CompressedAllReduce(group)
{
    public override bool NeedsFeedback => false;

    public override void Average(Span<float> values, Span<float> kept)
    {
        kept.Clear();
        long start = Now();
        Group.AllReduce(values, ReduceOperation.Average);
        Communicated(start, RingBytes(values.Length * sizeof(float)));
    }
}

using System.Runtime.InteropServices;
using Skein.Collectives;

namespace Skein.Training.Compression.AllReduce;

/// <summary>For codecs whose payloads are numbers that can be summed as they are: one ordinary all-reduce of the payload.</summary>
/// <typeparam name="T">The payload's numbers.</typeparam>
internal sealed class ReducedAllReduce<T> : CompressedAllReduce where T : unmanaged
{
    private readonly Codec codec;
    private readonly int head;
    private readonly byte[] payload;

    /// <param name="group">The ranks.</param>
    /// <param name="codec">The codec, the same on all ranks.</param>
    /// <param name="head">The bytes of a payload before its numbers, which are the same on all ranks.</param>
    /// <param name="length">The number of values.</param>
    /// <param name="needsFeedback">See <see cref="CompressedAllReduce.NeedsFeedback"/>.</param>
    public ReducedAllReduce(ProcessGroup group, Codec codec, int head, int length, bool needsFeedback) : base(group)
    {
        this.codec = codec;
        this.head = head;
        NeedsFeedback = needsFeedback;
        payload = Buffer(codec.MaxEncodedLength(length));
    }

    public override bool NeedsFeedback { get; }

    public override bool IsSparse => NeedsFeedback;

    public override void Average(Span<float> values, Span<float> kept)
    {
        codec.Encode(values, payload);
        Keep(codec, payload, values, kept);
        long start = Now();
        Group.AllReduce(MemoryMarshal.Cast<byte, T>(payload.AsSpan(head)), ReduceOperation.Average);
        Communicated(start, RingBytes(payload.Length - head));
        codec.Decode(payload, values);
    }

    public override void Save(BinaryWriter writer) => writer.Write(codec.Position);

    public override void Load(BinaryReader reader) => codec.Position = reader.ReadInt64();
}

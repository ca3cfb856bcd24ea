using System.Diagnostics;
using System.Numerics.Tensors;
using Skein.Collectives;

namespace Skein.Training.Compression.AllReduce;

/// <summary>
/// Averages a vector over the ranks while less than all of it is sent. Every rank makes the same one and calls it at the
/// same time; results are bitwise equal on all ranks. Values have to be finite.
/// </summary>
internal abstract class CompressedAllReduce(ProcessGroup group)
{
    /// <summary>Whether what is not sent has to be sent later for training to converge.</summary>
    public abstract bool NeedsFeedback { get; }

    /// <summary>Whether only some of the values are sent, each as it is.</summary>
    public virtual bool IsSparse => false;

    /// <summary>How long the calls waited for other ranks.</summary>
    public TimeSpan CommunicationTime { get; private set; }

    /// <summary>
    /// The bytes that this rank has sent, as rings and pairwise exchanges send them: shared memory moves fewer, since there
    /// every rank reads what another wrote once.
    /// </summary>
    public long BytesSent { get; private set; }

    protected ProcessGroup Group => group;

    /// <summary>Replaces <paramref name="values"/> by the average over the ranks of what each of them sends.</summary>
    /// <param name="values">This rank's values.</param>
    /// <param name="kept">As long: becomes what of them this rank did not send. Empty: not wanted.</param>
    public abstract void Average(Span<float> values, Span<float> kept);

    /// <summary>Makes the state that the last average left the present one, or drops it.</summary>
    public virtual void Settle(bool apply) { }

    /// <summary>Writes the state between two averages.</summary>
    public virtual void Save(BinaryWriter writer) { }

    /// <summary>Reads what <see cref="Save"/> of the same kind wrote.</summary>
    public virtual void Load(BinaryReader reader) { }

    protected static long Now() => Stopwatch.GetTimestamp();

    /// <summary>Notes a call that began then and in which this rank sent so many bytes.</summary>
    protected void Communicated(long since, long bytes)
    {
        CommunicationTime += Stopwatch.GetElapsedTime(since);
        BytesSent += bytes;
    }

    /// <summary>What a rank sends in a ring all-reduce of so many bytes.</summary>
    protected long RingBytes(long bytes) => 2 * (Group.WorldSize - 1) * bytes / Group.WorldSize;

    /// <summary>kept = values - what the payload stands for.</summary>
    protected static void Keep(Codec codec, ReadOnlySpan<byte> payload, ReadOnlySpan<float> values, Span<float> kept)
    {
        if (kept.IsEmpty) return;
        codec.Decode(payload, kept);
        TensorPrimitives.Subtract(values, kept, kept);
    }

    protected static byte[] Buffer(int length) => GC.AllocateArray<byte>(length, pinned: true);
}

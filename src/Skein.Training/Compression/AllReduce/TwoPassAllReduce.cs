using System.Numerics.Tensors;
using Skein.Collectives;

namespace Skein.Training.Compression.AllReduce;

/// <summary>
/// Every rank averages one part of the vector: it gets the other ranks' payloads of it, and sends them all a payload of the
/// average (Tang et al. 2019, "DoubleSqueeze", algorithm 1, with the server's work divided among the ranks as in 1-bit
/// Adam, Tang et al. 2021). Each rank sends as many values as in an ordinary all-reduce, all of them compressed.
/// </summary>
internal sealed class TwoPassAllReduce : CompressedAllReduce
{
    private readonly Codec codec;
    private readonly int[] starts;
    private readonly int[] most;
    private readonly int[] sendLengths;
    private readonly int[] receiveLengths;
    private readonly byte[] send;
    private readonly byte[] receive;
    private readonly float[] part;
    private float[] residual;
    private float[] nextResidual;

    /// <param name="group">The ranks.</param>
    /// <param name="codec">The codec; random choices should be other ones on each rank.</param>
    /// <param name="length">The number of values.</param>
    /// <param name="needsFeedback">Whether ranks keep what is not sent, of their values and of the average of their part.</param>
    public TwoPassAllReduce(ProcessGroup group, Codec codec, int length, bool needsFeedback) : base(group)
    {
        this.codec = codec;
        NeedsFeedback = needsFeedback;
        int size = group.WorldSize;
        starts = [.. Enumerable.Range(0, size + 1).Select(rank => (int)((long)length * rank / size))];
        most = [.. Enumerable.Range(0, size).Select(rank => codec.MaxEncodedLength(starts[rank + 1] - starts[rank]))];
        sendLengths = new int[size];
        receiveLengths = new int[size];
        int mine = starts[group.Rank + 1] - starts[group.Rank];
        send = Buffer(most.Sum());
        receive = Buffer(Math.Max(send.Length, checked(most[group.Rank] * size)));
        part = new float[mine];
        residual = needsFeedback ? new float[mine] : [];
        nextResidual = needsFeedback ? new float[mine] : [];
    }

    public override bool NeedsFeedback { get; }

    public override void Average(Span<float> values, Span<float> kept)
    {
        Scatter(values, kept);
        int mine = AveragePart();
        Gather(mine, values);
    }

    public override void Settle(bool apply)
    {
        if (apply) (residual, nextResidual) = (nextResidual, residual);
    }

    public override void Save(BinaryWriter writer)
    {
        writer.Write(codec.Position);
        foreach (float value in residual) writer.Write(value);
    }

    public override void Load(BinaryReader reader)
    {
        codec.Position = reader.ReadInt64();
        foreach (ref float value in residual.AsSpan()) value = reader.ReadSingle();
    }

    private int LengthBytes => codec.HasFixedLength ? 0 : (Group.WorldSize - 1) * sizeof(int);

    private void Scatter(ReadOnlySpan<float> values, Span<float> kept)
    {
        int offset = 0;
        for (int rank = 0; rank < most.Length; rank++)
        {
            ReadOnlySpan<float> those = values[starts[rank]..starts[rank + 1]];
            int length = codec.Encode(those, send.AsSpan(offset, most[rank]));
            Keep(codec, send.AsSpan(offset, length), those, kept.IsEmpty ? default : kept[starts[rank]..starts[rank + 1]]);
            sendLengths[rank] = length;
            offset += length;
        }

        long start = Now();
        int mine = most[Group.Rank];
        if (codec.HasFixedLength)
        {
            Array.Fill(receiveLengths, mine);
        }
        else
        {
            Group.AllToAll(sendLengths, receiveLengths.AsSpan());
        }

        int total = Lengths.Check(receiveLengths, mine);
        Group.AllToAll(send.AsSpan(0, offset), receive.AsSpan(0, total), sendLengths, receiveLengths);
        Communicated(start, offset - sendLengths[Group.Rank] + LengthBytes);
    }

    /// <returns>The bytes that the average takes.</returns>
    private int AveragePart()
    {
        Array.Clear(part);
        int offset = 0;
        foreach (int length in receiveLengths)
        {
            codec.Add(receive.AsSpan(offset, length), part);
            offset += length;
        }

        TensorPrimitives.Multiply(part, 1f / Group.WorldSize, part);
        if (NeedsFeedback) TensorPrimitives.Add(part, residual, part);
        int mine = codec.Encode(part, send);
        if (NeedsFeedback) Keep(codec, send.AsSpan(0, mine), part, nextResidual);
        return mine;
    }

    private void Gather(int mine, Span<float> values)
    {
        long start = Now();
        if (codec.HasFixedLength)
        {
            most.CopyTo(receiveLengths, 0);
        }
        else
        {
            Group.AllGather([mine], receiveLengths.AsSpan());
        }

        for (int rank = 0; rank < most.Length; rank++)
        {
            if (receiveLengths[rank] > most[rank]) throw new InvalidDataException($"rank {rank} announces a compressed average of {receiveLengths[rank]} bytes; at most {most[rank]} are possible");
        }

        int total = Lengths.Check(receiveLengths, receive.Length);
        Group.AllGather(send.AsSpan(0, mine), receive.AsSpan(0, total), receiveLengths);
        Communicated(start, ((Group.WorldSize - 1) * total / Group.WorldSize) + LengthBytes);
        int offset = 0;
        for (int rank = 0; rank < most.Length; rank++)
        {
            codec.Decode(receive.AsSpan(offset, receiveLengths[rank]), values[starts[rank]..starts[rank + 1]]);
            offset += receiveLengths[rank];
        }
    }
}

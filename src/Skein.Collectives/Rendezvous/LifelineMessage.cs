namespace Skein.Collectives.Rendezvous;

/// <summary>What travels between a rank and the hub of the <see cref="Lifeline"/>.</summary>
internal abstract record LifelineMessage
{
    /// <summary>The longest text, in bytes of UTF-8; longer ones are cut.</summary>
    public const int MaximumTextLength = 8 * 1024;

    /// <summary>The longest message, in bytes: one text, one signature and the fixed part.</summary>
    public const int MaximumLength = MaximumTextLength + WaitReport.MaximumSignatureLength + 64;

    private enum Tag : byte
    {
        Welcome = 1,
        Rejected = 2,
        Failed = 3,
        Waiting = 4,
        Goodbye = 5,
        StateChanged = 6,
        Ping = 7,
        Pong = 8,
    }

    /// <summary>Hub to rank: you are connected.</summary>
    internal sealed record Welcome : LifelineMessage;

    /// <summary>Hub to rank: you cannot be part of this job.</summary>
    internal sealed record Rejected(string Reason) : LifelineMessage;

    /// <summary>Rank to hub, and hub to all ranks.</summary>
    internal sealed record Failed(JobFailure Failure) : LifelineMessage;

    /// <summary>Rank to hub.</summary>
    internal sealed record Waiting(WaitReport Report) : LifelineMessage;

    /// <summary>Rank to hub: what follows is not a loss. Answered by the rank's own change of state.</summary>
    internal sealed record Goodbye : LifelineMessage;

    /// <summary>Hub to all ranks.</summary>
    internal sealed record StateChanged(int Rank, PeerState State) : LifelineMessage;

    /// <summary>Hub to rank: do you run? A frozen process does not answer.</summary>
    internal sealed record Ping : LifelineMessage;

    /// <summary>Rank to hub.</summary>
    internal sealed record Pong : LifelineMessage;

    public byte[] Encode()
    {
        var writer = new FrameWriter();
        switch (this)
        {
            case Welcome:
                writer.WriteByte((byte)Tag.Welcome);
                break;
            case Rejected rejected:
                writer.WriteByte((byte)Tag.Rejected);
                writer.WriteText(Cut(rejected.Reason));
                break;
            case Failed { Failure: var failure }:
                writer.WriteByte((byte)Tag.Failed);
                writer.WriteByte((byte)failure.Kind);
                writer.WriteInt32(failure.Rank);
                writer.WriteText(Cut(failure.Message));
                break;
            case Waiting { Report: var report }:
                writer.WriteByte((byte)Tag.Waiting);
                writer.WriteInt32(report.Rank);
                writer.WriteInt32(report.Group);
                writer.WriteInt64(report.Sequence);
                writer.WriteBytes(report.Signature.Span);
                writer.WriteText(Cut(report.Description));
                break;
            case Goodbye:
                writer.WriteByte((byte)Tag.Goodbye);
                break;
            case StateChanged change:
                writer.WriteByte((byte)Tag.StateChanged);
                writer.WriteInt32(change.Rank);
                writer.WriteByte((byte)change.State);
                break;
            case Ping:
                writer.WriteByte((byte)Tag.Ping);
                break;
            case Pong:
                writer.WriteByte((byte)Tag.Pong);
                break;
        }

        return writer.ToFrame();
    }

    /// <exception cref="InvalidDataException">It is not a well-formed message of a job of this size.</exception>
    public static LifelineMessage Decode(ReadOnlySpan<byte> content, int worldSize)
    {
        var reader = new FrameReader(content);
        byte tag = reader.ReadByte();
        LifelineMessage message = (Tag)tag switch
        {
            Tag.Welcome => new Welcome(),
            Tag.Rejected => new Rejected(reader.ReadText(MaximumTextLength)),
            Tag.Failed => new Failed(new JobFailure(
                (FailureKind)reader.ReadByte(), ReadRank(ref reader, worldSize), reader.ReadText(MaximumTextLength))),
            Tag.Waiting => new Waiting(new WaitReport(
                ReadRank(ref reader, worldSize), reader.ReadInt32(), reader.ReadInt64(),
                reader.ReadBytes(WaitReport.MaximumSignatureLength).ToArray(), reader.ReadText(MaximumTextLength))),
            Tag.Goodbye => new Goodbye(),
            Tag.Ping => new Ping(),
            Tag.Pong => new Pong(),
            Tag.StateChanged => new StateChanged(ReadRank(ref reader, worldSize), (PeerState)reader.ReadByte()),
            _ => throw new InvalidDataException($"unknown lifeline message {tag}"),
        };
        reader.End();
        return message;
    }

    private static int ReadRank(ref FrameReader reader, int worldSize)
    {
        int rank = reader.ReadInt32();
        if (rank < 0 || rank >= worldSize) throw new InvalidDataException($"rank {rank} in a job of {worldSize}");
        return rank;
    }

    // A char takes at most 3 bytes in UTF-8.
    private static string Cut(string text) =>
        text.Length <= MaximumTextLength / 3 ? text : text[..((MaximumTextLength / 3) - 1)] + "…";
}

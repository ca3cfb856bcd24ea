using System.Buffers.Binary;
using Skein.Collectives.Rendezvous;

namespace Skein.Training.Decentralized;

/// <summary>
/// Where peers that push meet before and after training: all come to rank 0, which answers everyone alike. Peers that are
/// lost are not waited for; rank 0 has to stay. Called by one thread.
/// </summary>
internal abstract class Meeting : IAsyncDisposable
{
    private protected const byte Bring = 1;
    private protected const byte Stop = 2;
    private protected const byte Lost = 3;
    private protected const byte Alive = 4;

    private volatile bool stopRequested;

    private protected Meeting(PushNetwork network, int maximumLength)
    {
        Network = network;
        MaximumLength = checked(maximumLength + 64);
    }

    /// <summary>Whether some peer wants all to stop.</summary>
    public bool StopRequested
    {
        get => stopRequested;
        private protected set => stopRequested = value;
    }

    private protected PushNetwork Network { get; }

    /// <summary>The most bytes of a frame's content.</summary>
    private protected int MaximumLength { get; }

    /// <summary>The rounds so far: all peers have the same ones in the same order, but for those before they came.</summary>
    private protected long Rounds { get; set; }

    /// <summary>Tells all peers that one wants to stop.</summary>
    public abstract void RequestStop();

    /// <summary>
    /// A wish to stop is not for the next fit. Called between the two rounds at a fit's end: all wishes have come before the
    /// first one's answer, and nobody is in the next fit before the second one's.
    /// </summary>
    public void ForgetStop() => StopRequested = false;

    /// <summary>Ends training without rank 0, which would otherwise go on to the end in vain.</summary>
    /// <exception cref="Skein.Collectives.PeerLostException">Rank 0 is lost.</exception>
    public virtual void ThrowIfLost() { }

    /// <summary>Brings something to a round, and gives rank 0's answer.</summary>
    /// <param name="what">What the round is for, in errors.</param>
    /// <param name="mine">What this peer brings.</param>
    /// <param name="answer">Run on rank 0: makes the answer from what each peer has brought; null for those that are lost.</param>
    /// <exception cref="Skein.Collectives.SkeinException">Somebody did not come in time, or rank 0 is lost.</exception>
    public abstract byte[] Round(string what, byte[] mine, Func<byte[]?[], byte[]> answer);

    /// <inheritdoc/>
    public abstract ValueTask DisposeAsync();

    private protected static byte[] Frame(byte kind, long number, ReadOnlySpan<byte> content)
    {
        var frame = new FrameWriter();
        frame.WriteByte(kind);
        frame.WriteInt64(number);
        frame.WriteBytes(content);
        return frame.ToFrame();
    }

    /// <summary>Says that one process of a rank is lost, or alive.</summary>
    private protected static byte[] News(byte kind, int peer, int incarnation)
    {
        var content = new byte[sizeof(int)];
        BinaryPrimitives.WriteInt32LittleEndian(content, incarnation);
        return Frame(kind, peer, content);
    }

    /// <exception cref="InvalidDataException">It is no such frame.</exception>
    private protected static (byte Kind, long Number, byte[] Content) Read(byte[] frame)
    {
        var reader = new FrameReader(frame);
        (byte kind, long number, byte[] content) = (reader.ReadByte(), reader.ReadInt64(), reader.ReadBytes(frame.Length).ToArray());
        reader.End();
        return (kind, number, content);
    }
}

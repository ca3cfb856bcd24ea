using System.Buffers.Binary;
using System.Net.Sockets;
using System.Threading.Channels;
using Skein.Collectives;
using Skein.Collectives.Rendezvous;

namespace Skein.Training.Decentralized;

/// <summary>The side of a meeting of all ranks but 0.</summary>
internal sealed class MeetingGuest : Meeting
{
    private const string ConnectionEnded = "its connection ended";

    private readonly FrameConnection host;
    private readonly Channel<(long Round, byte[] Content)> answers = Channel.CreateUnbounded<(long, byte[])>();
    private readonly Task receiving;

    private MeetingGuest(PushNetwork network, int maximumLength, Socket socket)
        : base(network, maximumLength)
    {
        host = new FrameConnection(socket, MaximumLength);
        receiving = Task.Run(ReceiveAsync);
    }

    /// <summary>Waits until rank 0 is there.</summary>
    public static async Task<MeetingGuest> JoinAsync(PushNetwork network, int maximumLength, CancellationToken cancellationToken)
    {
        (Socket socket, _) = await network.ConnectAsync(0, PushLinkKind.Meeting, 0, cancellationToken).ConfigureAwait(false);
        return new MeetingGuest(network, maximumLength, socket);
    }

    /// <inheritdoc/>
    public override void RequestStop()
    {
        if (StopRequested) return;
        StopRequested = true;
        _ = host.SendAsync(Frame(Stop, 0, []));
    }

    /// <inheritdoc/>
    public override void ThrowIfLost()
    {
        if (receiving.IsCompleted) throw Gone("training", ConnectionEnded);
    }

    /// <inheritdoc/>
    public override byte[] Round(string what, byte[] mine, Func<byte[]?[], byte[]> answer)
    {
        long round = Rounds++;
        _ = host.SendAsync(Frame(Bring, round, mine));
        TimeSpan limit = Network.Options.Timeout;
        try
        {
            (long Round, byte[] Content) got = answers.Reader.ReadAsync().AsTask().WaitAsync(limit).GetAwaiter().GetResult();
            // Who comes later is told in its first round at which one the others are.
            if (round == 0) Rounds = got.Round + 1;
            return got.Round == Rounds - 1 ? got.Content : throw Gone(what, $"it answered round {got.Round} instead of {round}");
        }
        catch (TimeoutException error)
        {
            throw new CollectiveTimeoutException($"rank {Network.Rank} waited {limit.TotalSeconds:0.###} s for rank 0, or for those that rank 0 waits for, in {what}", error);
        }
        catch (ChannelClosedException error)
        {
            throw Gone(what, error.InnerException?.Message ?? ConnectionEnded);
        }
    }

    /// <inheritdoc/>
    public override async ValueTask DisposeAsync()
    {
        await host.DisposeAsync().ConfigureAwait(false);
        await receiving.ConfigureAwait(false);
    }

    private PeerLostException Gone(string what, string reason) =>
        new($"rank 0 was lost ({reason}) while rank {Network.Rank} needed it in {what}; stochastic gradient push outlives any rank but 0");

    private async Task ReceiveAsync()
    {
        Exception? reason = null;
        try
        {
            while (await host.ReceiveAsync().ConfigureAwait(false) is { } frame)
            {
                (byte kind, long number, byte[] content) = Read(frame);
                if (kind == Stop) StopRequested = true;
                else if (kind is Lost or Alive && number > 0 && number < Network.WorldSize && content.Length == sizeof(int)) Hear(kind, (int)number, BinaryPrimitives.ReadInt32LittleEndian(content));
                else if (kind == Bring) answers.Writer.TryWrite((number, content));
            }
        }
        catch (InvalidDataException error)
        {
            reason = error;
        }

        answers.Writer.TryComplete(reason);
    }

    private void Hear(byte kind, int peer, int incarnation)
    {
        if (kind == Lost) Network.MarkLost(peer, incarnation);
        else Network.MarkAlive(peer, incarnation);
    }
}

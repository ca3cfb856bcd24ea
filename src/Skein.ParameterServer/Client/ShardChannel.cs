using System.Diagnostics;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using System.Text;
using Skein.Collectives;
using Skein.Collectives.Rendezvous;
using Skein.ParameterServer.Control;
using Skein.ParameterServer.Shards;
using Skein.ParameterServer.Wire;

namespace Skein.ParameterServer.Client;

/// <summary>A worker's stream to whoever is the primary of one shard. One thread uses it.</summary>
internal sealed class ShardChannel(CoordinatorClient coordinator, int index, ShardLayout layout, JobSecret secret, TimeSpan timeout) : IDisposable
{
    // An answer that the shard itself gives up on names whom it waited for, so it goes first.
    private static readonly TimeSpan Grace = TimeSpan.FromSeconds(10);
    private static readonly TimeSpan Attempt = TimeSpan.FromSeconds(2);

    private const int MaximumCheckpoints = 16;

    private DataConnection? stream;
    private long generation = -1;
    private long sequence;
    private long earlierBytes;

    public int Index => index;

    public ShardLayout Layout => layout;

    /// <summary>What the shard said when it was opened.</summary>
    public MessageHeader Opened { get; private set; }

    /// <summary>In a job that resumes, the versions of the checkpoints that the shard can begin with, or of the one that it did.</summary>
    public IReadOnlyList<long> Checkpoints { get; private set; } = [];

    /// <summary>The version of the parameters that this worker has; -1 for none.</summary>
    public long Version { get; set; } = -1;

    public long BytesSent => earlierBytes + (stream?.BytesSent ?? 0);

    private string Name => $"server shard {index}";

    /// <summary>Connects where the coordinator says that the shard is, and opens the layout. Keeps trying until the timeout.</summary>
    public void Connect()
    {
        Disconnect();
        long start = Stopwatch.GetTimestamp();
        while (true)
        {
            ShardView shard = coordinator.WaitForAsync(view => view.Ready && view.Shards.Count > index, $"{Name} to register", timeout).GetAwaiter().GetResult().Shards[index];
            try
            {
                Socket socket = AuthenticatedConnection.ConnectAsync(
                    shard.Primary.Host, shard.Primary.DataPort, secret, ConnectionPurpose.Data, new PeerHello(coordinator.Id, shard.Generation).ToBytes(), Attempt).GetAwaiter().GetResult();
                generation = shard.Generation;
                stream = new DataConnection(socket) { Waiting = CheckWait };
                byte[] bytes = layout.ToBytes();
                Request(new MessageHeader { Kind = MessageKind.Open, PayloadBytes = bytes.Length }, bytes);
                Opened = Receive(MessageKind.Opened);
                var versions = new long[Math.Clamp(Opened.PayloadBytes / sizeof(long), 0, MaximumCheckpoints)];
                stream.Read(MemoryMarshal.AsBytes(versions.AsSpan()));
                Checkpoints = versions;
                return;
            }
            catch (Exception error) when (error is IOException or RendezvousException)
            {
                Disconnect();
                ThrowIfFailed();
                if (Stopwatch.GetElapsedTime(start) > timeout)
                {
                    throw new ParameterServerException($"worker {coordinator.Id} could not reach {Name} at {shard.Primary.Host}:{shard.Primary.DataPort} for {timeout.TotalSeconds:0} s: {error.Message}", error);
                }

                Thread.Sleep(20);
            }
        }
    }

    /// <summary>The stream, to write a request's payload to.</summary>
    /// <exception cref="IOException">There is none: <see cref="Connect"/> first.</exception>
    public DataConnection Stream => stream ?? throw new IOException($"{Name} is not connected");

    /// <summary>Writes a request's header and the whole or the beginning of its payload.</summary>
    public void Request(MessageHeader header, ReadOnlySpan<byte> payload = default)
    {
        header.Worker = coordinator.Id;
        header.Sequence = ++sequence;
        Stream.Write(header);
        Stream.Write(payload);
    }

    /// <summary>Waits for the next answer, which has to be one of <paramref name="kinds"/>, and reads its header.</summary>
    /// <exception cref="ParameterServerException">The shard refused, or the job failed.</exception>
    /// <exception cref="IOException">The connection is lost: connect, and ask again.</exception>
    public MessageHeader Receive(params ReadOnlySpan<MessageKind> kinds)
    {
        Stream.Flush();
        MessageHeader header = Stream.ReadHeader();
        if (kinds.Contains(header.Kind)) return header;
        if (header.Kind is not (MessageKind.Refused or MessageKind.Superseded)) throw new InvalidDataException($"{Name} answered a {kinds[0]} with a message of kind {header.Kind}");

        var text = new byte[Math.Clamp(header.PayloadBytes, 0, 1 << 16)];
        Stream.Read(text);
        string reason = Encoding.UTF8.GetString(text);
        throw header.Kind == MessageKind.Superseded ? new IOException(reason) : new ParameterServerException(reason);
    }

    public void Dispose() => Disconnect();

    private void Disconnect()
    {
        earlierBytes = BytesSent;
        stream?.Dispose();
        stream = null;
        // A new primary may lack updates of which this worker has seen the result.
        Version = -1;
    }

    private void CheckWait(TimeSpan stalled)
    {
        ThrowIfFailed();
        if (coordinator.View.Shards is { } shards && shards.Count > index && shards[index].Generation != generation)
        {
            throw new IOException($"{Name} was replaced by its backup");
        }

        if (stalled > timeout + Grace)
        {
            throw new ParameterServerException(
                $"worker {coordinator.Id} waited {timeout.TotalSeconds:0} s for {Name} to answer or to take what was sent; "
                + "see its log, or raise SKEIN_TIMEOUT_SECONDS");
        }
    }

    private void ThrowIfFailed()
    {
        if (coordinator.View.Failure is { } failure) throw new ParameterServerException(failure);
    }
}

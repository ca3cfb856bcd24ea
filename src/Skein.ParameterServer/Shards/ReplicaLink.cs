using System.Collections.Concurrent;
using System.Runtime.InteropServices;
using System.Text;
using Skein.ParameterServer.Wire;

namespace Skein.ParameterServer.Shards;

/// <summary>
/// A primary's stream to its backup: everything that changes the shard's state, in the order in which the primary
/// applied it (chain replication, van Renesse and Schneider 2004, with a chain of two).
/// </summary>
internal sealed class ReplicaLink : IDisposable
{
    private readonly DataConnection stream;
    private readonly ShardLayoutReader layout;
    private readonly Action<long> acknowledged;
    private readonly Action<string> lost;
    private readonly BlockingCollection<(MessageHeader Header, byte[]? Payload, StagedPush? Push)> queue = [];

    /// <summary>Where the shape of pushes is read from, which is known before the first.</summary>
    public delegate ShardLayout ShardLayoutReader();

    /// <param name="stream">Connected to the backup; owned from now on.</param>
    /// <param name="layout">The shape of pushes.</param>
    /// <param name="acknowledged">Called on a thread of the link with the number of the newest message that the backup has.</param>
    /// <param name="lost">Called, perhaps twice, when the backup cannot be reached any more.</param>
    public ReplicaLink(DataConnection stream, ShardLayoutReader layout, Action<long> acknowledged, Action<string> lost)
    {
        this.stream = stream;
        this.layout = layout;
        this.acknowledged = acknowledged;
        this.lost = lost;
        new Thread(Write) { IsBackground = true, Name = "replica-write" }.Start();
        new Thread(Read) { IsBackground = true, Name = "replica-read" }.Start();
    }

    /// <summary>The number of messages forwarded so far.</summary>
    public long Forwarded { get; private set; }

    public void Forward(MessageHeader header, byte[]? payload = null, StagedPush? push = null)
    {
        header.Sequence = ++Forwarded;
        push?.Share();
        try
        {
            queue.Add((header, payload, push));
        }
        catch (InvalidOperationException)
        {
            push?.Release();
        }
    }

    public void Dispose()
    {
        queue.CompleteAdding();
        stream.Dispose();
    }

    private void Write()
    {
        foreach ((MessageHeader header, byte[]? payload, StagedPush? push) in queue.GetConsumingEnumerable())
        {
            try
            {
                stream.Write(header);
                if (payload is not null) stream.Write(payload);
                if (push is not null) WritePush(push);
                if (queue.Count == 0) stream.Flush();
            }
            catch (Exception error) when (error is IOException or ObjectDisposedException)
            {
                lost(error.Message);
            }
            finally
            {
                push?.Release();
            }
        }
    }

    private void WritePush(StagedPush push)
    {
        stream.Write(push.Present);
        const int chunk = 1 << 24;
        long length = layout().DenseLength;
        for (long start = 0; start < length; start += chunk)
        {
            stream.Write(MemoryMarshal.AsBytes(push.Dense(start, (int)Math.Min(chunk, length - start))));
        }

        foreach (SparseGradient sparse in push.Sparse)
        {
            ReadOnlySpan<int> shape = [sparse.Table, sparse.Ids.Length];
            stream.Write(MemoryMarshal.AsBytes(shape));
            stream.Write(MemoryMarshal.AsBytes(sparse.Ids.AsSpan()));
            stream.Write(MemoryMarshal.AsBytes(sparse.Rows.AsSpan()));
        }
    }

    private void Read()
    {
        try
        {
            while (true)
            {
                MessageHeader header = stream.ReadHeader();
                var payload = new byte[header.Kind == MessageKind.Refused ? Math.Clamp(header.PayloadBytes, 0, 4096) : 0];
                stream.Read(payload);
                if (header.Kind == MessageKind.Refused)
                {
                    lost($"the backup refused a message: {Encoding.UTF8.GetString(payload)}");
                    return;
                }

                acknowledged(header.Sequence);
            }
        }
        catch (Exception error) when (error is IOException or ObjectDisposedException)
        {
            lost(error.Message);
        }
    }
}

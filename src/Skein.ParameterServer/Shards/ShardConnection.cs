using System.Collections.Concurrent;
using System.Runtime.InteropServices;
using System.Text;
using Skein.ParameterServer.Wire;

namespace Skein.ParameterServer.Shards;

/// <summary>
/// A shard's side of one peer's stream: a thread that reads requests, gradients into staging memory, and one that
/// writes answers, parameters straight from where they live.
/// </summary>
internal sealed unsafe class ShardConnection : IDisposable
{
    private const int MaximumLayoutBytes = 16 << 20;
    private const int MaximumRows = 1 << 22;
    private const int MaximumRowValues = 1 << 29;
    private const int ChunkElements = 1 << 18;
    private static readonly TimeSpan ToSayWhy = TimeSpan.FromSeconds(2);

    private readonly DataConnection stream;
    private readonly Action<ShardRequest> received;
    private readonly Action<ShardConnection> closed;
    private readonly BlockingCollection<Answer> answers = [];
    private readonly SemaphoreSlim credit;
    private readonly Thread writer;
    private readonly Thread reader;
    private Staging? staging;

    /// <param name="stream">Owned from now on.</param>
    /// <param name="hello">Who is at the other side.</param>
    /// <param name="pushes">How many pushes of this peer may be in memory at once; reading waits for room.</param>
    /// <param name="received">Called on the reading thread for each request.</param>
    /// <param name="closed">Called once, when nothing more comes.</param>
    public ShardConnection(DataConnection stream, PeerHello hello, int pushes, Action<ShardRequest> received, Action<ShardConnection> closed)
    {
        this.stream = stream;
        this.received = received;
        this.closed = closed;
        Hello = hello;
        credit = new SemaphoreSlim(pushes);
        writer = new Thread(Write) { IsBackground = true, Name = $"shard-write-{hello.Worker}" };
        writer.Start();
        reader = new Thread(Read) { IsBackground = true, Name = $"shard-read-{hello.Worker}" };
        reader.Start();
    }

    public PeerHello Hello { get; }

    public bool FromPrimary => Hello.Worker == PeerHello.Primary;

    public long BytesReceived => stream.BytesReceived;

    public long BytesSent => stream.BytesSent;

    /// <summary>From now on pushes can be read: the shape of the shard is known.</summary>
    public void Open(ShardLayout layout, StagingPool pool) => Volatile.Write(ref staging, new Staging(layout, pool));

    public void Send(in MessageHeader header, byte[]? payload = null) => Enqueue(new Answer(header, payload, null));

    /// <summary>Sends <see cref="MessageHeader.PayloadBytes"/> bytes from memory that outlives the connection.</summary>
    public void Send(in MessageHeader header, byte* payload) => Enqueue(new Answer(header, null, (nint)payload));

    public void Refuse(in MessageHeader request, string reason, MessageKind kind = MessageKind.Refused)
    {
        byte[] text = Encoding.UTF8.GetBytes(reason);
        Send(new MessageHeader { Kind = kind, Sequence = request.Sequence, PayloadBytes = text.Length }, text);
    }

    public void Dispose()
    {
        answers.CompleteAdding();
        stream.Dispose();
    }

    /// <summary>After <see cref="Dispose"/>: waits until neither thread touches the shard's memory any more.</summary>
    public bool Join(TimeSpan limit) => writer.Join(limit) && reader.Join(limit);

    private void Enqueue(Answer answer)
    {
        try
        {
            answers.Add(answer);
        }
        catch (InvalidOperationException)
        {
            // Closed meanwhile: the peer no longer waits.
        }
    }

    private void Write()
    {
        try
        {
            foreach (Answer answer in answers.GetConsumingEnumerable())
            {
                stream.Write(answer.Header);
                if (answer.Payload is { } bytes) stream.Write(bytes);
                else if (answer.Memory is { } memory) WriteMemory((byte*)memory, answer.Header.PayloadBytes);
                if (answers.Count == 0) stream.Flush();
            }
        }
        catch (Exception error) when (error is IOException or ObjectDisposedException)
        {
            stream.Dispose();
        }
    }

    private void WriteMemory(byte* memory, long length)
    {
        for (long sent = 0; sent < length;)
        {
            int count = (int)Math.Min(length - sent, 1 << 30);
            stream.Write(new ReadOnlySpan<byte>(memory + sent, count));
            sent += count;
        }
    }

    private void Read()
    {
        MessageHeader header = default;
        try
        {
            while (true)
            {
                header = stream.ReadHeader();
                if (!FromPrimary) header.Worker = Hello.Worker;
                received(ReadRequest(header));
            }
        }
        catch (Exception error) when (error is InvalidDataException or OutOfMemoryException)
        {
            // What follows in the stream cannot be told any more.
            Refuse(header, error.Message);
            answers.CompleteAdding();
            writer.Join(ToSayWhy);
        }
        catch (Exception error) when (error is IOException or ObjectDisposedException)
        {
            // The peer is gone, or this side closed.
        }

        Dispose();
        closed(this);
    }

    private ShardRequest ReadRequest(in MessageHeader header)
    {
        switch (header.Kind)
        {
            case MessageKind.Open:
                Require(header.PayloadBytes is > 0 and <= MaximumLayoutBytes, header, $"1 to {MaximumLayoutBytes} bytes of layout");
                var json = new byte[header.PayloadBytes];
                stream.Read(json);
                return new ShardRequest(header, this) { Layout = ShardLayout.Parse(json) };
            case MessageKind.Initialize or MessageKind.Push:
                return new ShardRequest(header, this) { Push = ReadPush(header) };
            case MessageKind.PullRows:
                Require(header.PayloadBytes is >= 0 and <= MaximumRows * sizeof(long) && header.PayloadBytes % sizeof(long) == 0, header, $"up to {MaximumRows} ids");
                Require(header.Tables < Opened(header).Layout.Tables.Count, header, $"one of {Opened(header).Layout.Tables.Count} tables");
                long asked = header.PayloadBytes / sizeof(long);
                Require(FitRows(asked, Opened(header).Layout.Tables[header.Tables]), header, $"ids of at most {MaximumRowValues} values");
                var ids = new long[asked];
                stream.Read(MemoryMarshal.AsBytes(ids.AsSpan()));
                return new ShardRequest(header, this) { Ids = ids };
            case MessageKind.Pull or MessageKind.Leave or MessageKind.Return or MessageKind.Restore:
                Require(header.PayloadBytes == 0, header, "no payload");
                return new ShardRequest(header, this);
            default:
                throw new InvalidDataException($"a message of unknown kind {(byte)header.Kind} came; close the connection and use the same version of Skein everywhere");
        }
    }

    private Staging Opened(in MessageHeader header) => Volatile.Read(ref staging)
        ?? throw new InvalidDataException($"a {header.Kind} came before the layout was opened");

    private StagedPush ReadPush(in MessageHeader header)
    {
        Staging known = Opened(header);
        long left = header.PayloadBytes;
        Require(left >= known.Layout.DenseBytes, header, $"{known.Layout.DenseBytes} bytes of values");
        credit.Wait();
        StagedPush push = known.Pool.Rent();
        push.Header = header;
        push.Released = () => credit.Release();
        try
        {
            if (header.Flags.HasFlag(MessageFlags.Partial)) push.Present = ReadArray<byte>(known.Layout.Slices.Count, header, ref left);
            left -= known.Layout.DenseBytes;
            Require(left >= 0, header, $"{known.Layout.DenseBytes} bytes of values");
            for (long start = 0; start < known.Layout.DenseLength; start += ChunkElements)
            {
                // Looked at while it is in the cache.
                Span<float> chunk = push.Dense(start, (int)Math.Min(ChunkElements, known.Layout.DenseLength - start));
                stream.Read(MemoryMarshal.AsBytes(chunk));
                push.Finite &= Finite.All(chunk);
            }

            for (int i = 0; i < header.Tables; i++) push.Sparse.Add(ReadSparse(known.Layout, header, push, ref left));
            Require(left == 0, header, $"{header.PayloadBytes - left} bytes");
            return push;
        }
        catch
        {
            push.Release();
            throw;
        }
    }

    private SparseGradient ReadSparse(ShardLayout layout, in MessageHeader header, StagedPush push, ref long left)
    {
        int[] shape = ReadArray<int>(2, header, ref left);
        Require(shape[0] >= 0 && shape[0] < layout.Tables.Count, header, $"one of {layout.Tables.Count} tables, not table {shape[0]}");
        Require(shape[1] is >= 0 and <= MaximumRows, header, $"up to {MaximumRows} rows, not {shape[1]}");
        TableSpec table = layout.Tables[shape[0]];
        Require(FitRows(shape[1], table), header, $"rows of at most {MaximumRowValues} values");
        long[] ids = ReadArray<long>(shape[1], header, ref left);
        foreach (long id in ids)
        {
            if (id < 0 || id >= table.Rows) throw new InvalidDataException($"table '{table.Name}' has rows 0 to {table.Rows - 1}, but worker {header.Worker} pushed row {id}");
        }

        if (ids.Distinct().Count() != ids.Length) throw new InvalidDataException($"worker {header.Worker} pushed a row of table '{table.Name}' twice; rows of one push are distinct");
        float[] rows = ReadArray<float>(shape[1] * table.Dimension, header, ref left);
        push.Finite &= Finite.All(rows);
        return new SparseGradient(shape[0], ids, rows);
    }

    private static bool FitRows(long count, TableSpec table) => count * table.Dimension <= MaximumRowValues;

    private T[] ReadArray<T>(int count, in MessageHeader header, ref long left)
        where T : unmanaged
    {
        left -= (long)count * sizeof(T);
        Require(left >= 0, header, $"{count} more elements of {sizeof(T)} bytes");
        var array = new T[count];
        stream.Read(MemoryMarshal.AsBytes(array.AsSpan()));
        return array;
    }

    private static void Require(bool condition, in MessageHeader header, string expected)
    {
        if (!condition)
        {
            throw new InvalidDataException(
                $"worker {header.Worker} sent a {header.Kind} with {header.PayloadBytes} bytes of payload where {expected} should come; its model differs from the job's");
        }
    }

    private sealed record Staging(ShardLayout Layout, StagingPool Pool);

    private readonly record struct Answer(MessageHeader Header, byte[]? Payload, nint? Memory);
}

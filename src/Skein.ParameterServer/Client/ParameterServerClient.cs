using System.Runtime.InteropServices;
using Skein.Collectives.Rendezvous;
using Skein.ParameterServer.Client;
using Skein.ParameterServer.Control;
using Skein.ParameterServer.Shards;
using Skein.ParameterServer.Wire;

namespace Skein.ParameterServer;

/// <summary>
/// A worker's view of all server shards: pulls parameters, pushes gradients, on plain memory. When a shard's primary is
/// lost and has a backup, calls go on there by themselves. For one thread at a time.
/// </summary>
public sealed class ParameterServerClient : IDisposable
{
    private readonly CoordinatorClient coordinator;
    private readonly ShardChannel[] channels;
    private readonly Dictionary<string, int> parameterIndex;
    private readonly IReadOnlyList<TableSpec> tables;
    private long? restored;

    private ParameterServerClient(CoordinatorClient coordinator, IReadOnlyList<ParameterSpec> parameters, IReadOnlyList<TableSpec> tables, ShardChannel[] channels, Placement placement)
    {
        this.coordinator = coordinator;
        this.tables = tables;
        this.channels = channels;
        Placement = placement;
        parameterIndex = parameters.Index().ToDictionary(static parameter => parameter.Item.Name, static parameter => parameter.Index);
    }

    /// <summary>Which server holds what.</summary>
    public Placement Placement { get; }

    /// <summary>The tables whose rows live on the servers.</summary>
    public IReadOnlyList<TableSpec> Tables => tables;

    /// <summary>The clock to begin with: 0, or where the others are when this worker joined later.</summary>
    public long StartClock => channels.Max(static channel => channel.Opened.Clock);

    /// <summary>The updates that the parameters had seen when this worker opened them: those of the checkpoint, where one was restored.</summary>
    public long StartVersion => restored ?? channels.Min(static channel => channel.Opened.Version);

    /// <summary>Bytes sent to the servers so far.</summary>
    public long BytesSent => channels.Sum(static channel => channel.BytesSent);

    /// <summary>Waits for all servers, and opens a model in them: the first worker defines it, the others have to have the same.</summary>
    /// <param name="coordinator">This worker's membership; stays the caller's.</param>
    /// <param name="secret">The job's secret.</param>
    /// <param name="parameters">The dense parameters.</param>
    /// <param name="tables">The tables whose rows live on the servers only.</param>
    /// <param name="servers">The number of shards.</param>
    /// <param name="timeout">The longest wait of each call.</param>
    /// <exception cref="ArgumentException">The parameters cannot be placed on so many servers.</exception>
    /// <exception cref="ParameterServerException">
    /// Another worker's model differs, the shards' checkpoints do not fit together, or the job failed.
    /// </exception>
    public static ParameterServerClient Open(
        CoordinatorClient coordinator, JobSecret secret, IReadOnlyList<ParameterSpec> parameters, IReadOnlyList<TableSpec> tables, int servers, TimeSpan timeout)
    {
        ArgumentNullException.ThrowIfNull(coordinator);
        ArgumentNullException.ThrowIfNull(tables);
        var placement = Placement.Create(parameters, servers, allowIdle: tables.Count > 0);
        ShardChannel[] channels = [.. Enumerable.Range(0, servers).Select(server => new ShardChannel(coordinator, server, new ShardLayout(placement.On(server), tables), secret, timeout))];
        try
        {
            foreach (ShardChannel channel in channels) channel.Connect();
            var client = new ParameterServerClient(coordinator, parameters, tables, channels, placement);
            client.Restore();
            return client;
        }
        catch
        {
            foreach (ShardChannel channel in channels) channel.Dispose();
            throw;
        }
    }

    /// <summary>Gives the dense parameters their initial values, unless another worker did.</summary>
    public void Initialize(IReadOnlyList<ParameterMemory> values)
    {
        ForAll(
            channel => restored is not null || channel.Opened.Flags.HasFlag(MessageFlags.Initialized),
            channel =>
            {
                channel.Request(new MessageHeader { Kind = MessageKind.Initialize, PayloadBytes = channel.Layout.DenseBytes });
                WriteDense(channel, values);
            },
            static channel => channel.Receive(MessageKind.Acknowledged));
    }

    /// <summary>
    /// Reads the parameters into <paramref name="destination"/> as soon as the consistency allows a worker with this
    /// clock to have them.
    /// </summary>
    /// <param name="clock">The steps that this worker has pushed; -1 for whatever there is.</param>
    /// <param name="destination">One memory per parameter.</param>
    public PullAnswer Pull(long clock, IReadOnlyList<ParameterMemory> destination)
    {
        var answer = default(PullAnswer);
        ForAll(static _ => false, channel => RequestPull(channel, clock), channel => answer = ReceivePull(channel, destination, channel.Receive(MessageKind.Parameters), answer));
        return answer;
    }

    /// <summary>Hands one step's gradients over; returns when they are applied or safe with the servers.</summary>
    public void Push(StepPush push)
    {
        ArgumentNullException.ThrowIfNull(push);
        RowGradients[][] rows = SplitRows(push.Rows);
        ForAll(static _ => false, channel => RequestPush(channel, push, rows[channel.Index]), static channel => channel.Receive(MessageKind.Acknowledged));
    }

    /// <summary><see cref="Push"/> and the <see cref="Pull"/> of the next clock in one round trip.</summary>
    public PullAnswer PushPull(StepPush push, IReadOnlyList<ParameterMemory> destination)
    {
        ArgumentNullException.ThrowIfNull(push);
        RowGradients[][] rows = SplitRows(push.Rows);
        var answer = default(PullAnswer);
        ForAll(
            static _ => false,
            channel =>
            {
                RequestPush(channel, push, rows[channel.Index]);
                RequestPull(channel, push.Clock + 1);
            },
            channel =>
            {
                // A backup that is slower than the other workers makes the acknowledgement come last.
                for (int answers = 0; answers < 2; answers++)
                {
                    MessageHeader header = channel.Receive(MessageKind.Acknowledged, MessageKind.Parameters);
                    if (header.Kind == MessageKind.Parameters) answer = ReceivePull(channel, destination, header, answer);
                }
            });
        return answer;
    }

    /// <summary>Reads rows of a table; an id may occur several times.</summary>
    /// <param name="table">The table's place in the list that was opened.</param>
    /// <param name="ids">Which rows.</param>
    /// <param name="rows">Gets them, one behind the other, in the order of <paramref name="ids"/>.</param>
    public void PullRows(int table, ReadOnlySpan<long> ids, Span<float> rows)
    {
        int dimension = tables[table].Dimension;
        ArgumentOutOfRangeException.ThrowIfNotEqual(rows.Length, ids.Length * dimension);
        var places = new List<int>[channels.Length];
        for (int server = 0; server < places.Length; server++) places[server] = [];
        for (int i = 0; i < ids.Length; i++) places[SparseRows.ServerOf(ids[i], channels.Length)].Add(i);
        long[] all = ids.ToArray();
        var result = new float[rows.Length];
        ForAll(
            channel => places[channel.Index].Count == 0,
            channel =>
            {
                long[] mine = [.. places[channel.Index].Select(place => all[place])];
                channel.Request(new MessageHeader { Kind = MessageKind.PullRows, Tables = (ushort)table, PayloadBytes = mine.Length * sizeof(long) }, MemoryMarshal.AsBytes(mine.AsSpan()));
            },
            channel =>
            {
                channel.Receive(MessageKind.Rows);

                // In one piece: a system call for each row would cost more than the rows.
                var received = new float[places[channel.Index].Count * dimension];
                channel.Stream.Read(MemoryMarshal.AsBytes(received.AsSpan()));
                foreach ((int i, int place) in places[channel.Index].Index()) received.AsSpan(i * dimension, dimension).CopyTo(result.AsSpan(place * dimension));
            });
        result.CopyTo(rows);
    }

    /// <summary>Says that this worker pushes no more, so that nobody waits for it. It may still pull with clock -1.</summary>
    public void Leave() => ForAll(static _ => false, static channel => channel.Request(new MessageHeader { Kind = MessageKind.Leave }), static channel => channel.Receive(MessageKind.Acknowledged));

    /// <summary>
    /// After <see cref="Leave"/>: says that this worker pushes again, from that clock on. To be heard by all servers before anybody's
    /// next push.
    /// </summary>
    public void Return(long clock) => ForAll(
        static _ => false,
        channel => channel.Request(new MessageHeader { Kind = MessageKind.Return, Clock = clock }),
        static channel => channel.Receive(MessageKind.Acknowledged));

    /// <summary>Closes the streams.</summary>
    public void Dispose()
    {
        foreach (ShardChannel channel in channels) channel.Dispose();
    }

    /// <summary>In a job that resumes, lets all shards begin with the newest checkpoint that each of them has.</summary>
    private void Restore()
    {
        if (Array.TrueForAll(channels, static channel => channel.Checkpoints.Count == 0)) return;
        IEnumerable<long> all = channels[0].Checkpoints;
        long[] common = [.. channels.Aggregate(all, static (these, channel) => these.Intersect(channel.Checkpoints))];
        if (common.Length == 0)
        {
            var each = channels.Select(static channel => $"server shard {channel.Index} of {string.Join(" and ", channel.Checkpoints)}");
            throw new ParameterServerException(
                $"the checkpoints of the shards have no step in common: {string.Join(", ", each)} updates; "
                + "give the directory of another run, or start without --resume");
        }

        restored = common.Max();
        ForAll(
            static channel => channel.Opened.Flags.HasFlag(MessageFlags.Initialized),
            channel => channel.Request(new MessageHeader { Kind = MessageKind.Restore, Version = restored.Value }),
            static channel => channel.Receive(MessageKind.Acknowledged));
    }

    /// <summary>
    /// Sends to every shard, then hears every answer. A shard that is lost in between is asked again, all of it, once it
    /// has a new primary: shards recognise what they have applied.
    /// </summary>
    private void ForAll(Func<ShardChannel, bool> skip, Action<ShardChannel> send, Action<ShardChannel> receive)
    {
        try
        {
            ShardChannel[] asked = [.. channels.Where(channel => !skip(channel))];
            var broken = new HashSet<ShardChannel>();
            foreach (ShardChannel channel in asked)
            {
                try
                {
                    send(channel);
                    channel.Stream.Flush();
                }
                catch (IOException)
                {
                    broken.Add(channel);
                }
            }

            foreach (ShardChannel channel in asked) Finish(channel, broken.Contains(channel), send, receive);
        }
        catch (ParameterServerException error) when (coordinator.View.Failure is null)
        {
            coordinator.FailAsync(error.Message).GetAwaiter().GetResult();

            // Another member may have failed first, and all say the same.
            throw new ParameterServerException(coordinator.View.Failure ?? error.Message, error);
        }
    }

    private static void Finish(ShardChannel channel, bool broken, Action<ShardChannel> send, Action<ShardChannel> receive)
    {
        while (true)
        {
            try
            {
                if (broken)
                {
                    channel.Connect();
                    send(channel);
                }

                receive(channel);
                return;
            }
            catch (IOException)
            {
                broken = true;
            }
        }
    }

    private static void RequestPull(ShardChannel channel, long clock) =>
        channel.Request(new MessageHeader { Kind = MessageKind.Pull, Clock = clock, Version = channel.Version });

    private PullAnswer ReceivePull(ShardChannel channel, IReadOnlyList<ParameterMemory> destination, MessageHeader header, PullAnswer before)
    {
        if (!header.Flags.HasFlag(MessageFlags.NotModified))
        {
            if (header.PayloadBytes != channel.Layout.DenseBytes) throw new InvalidDataException($"server shard {channel.Index} sent {header.PayloadBytes} bytes of parameters, not {channel.Layout.DenseBytes}");
            foreach (ParameterSlice slice in channel.Layout.Slices)
            {
                channel.Stream.Read(MemoryMarshal.AsBytes(destination[parameterIndex[slice.Parameter]].Slice(slice.Start, slice.Length)));
            }

            channel.Version = header.Version;
        }

        // Every shard adds up the same losses; the first one's is taken.
        double loss = channel.Index == 0 ? header.Loss : before.Loss;
        return new PullAnswer(loss, before.Stop || header.Flags.HasFlag(MessageFlags.Stop), before.BytesReceived + header.PayloadBytes);
    }

    private void RequestPush(ShardChannel channel, StepPush push, RowGradients[] rows)
    {
        IReadOnlyList<ParameterSlice> slices = channel.Layout.Slices;
        byte[] present = [.. slices.Select(slice => push.Gradients[parameterIndex[slice.Parameter]].IsAbsent ? (byte)0 : (byte)1)];
        bool partial = present.Contains((byte)0);
        long sparse = rows.Sum(static gradients => (2L * sizeof(int)) + ((long)gradients.Ids.Length * sizeof(long)) + ((long)gradients.Gradients.Length * sizeof(float)));
        channel.Request(new MessageHeader
        {
            Kind = MessageKind.Push,
            Flags = (partial ? MessageFlags.Partial : MessageFlags.None) | (push.Stop ? MessageFlags.Stop : MessageFlags.None),
            Tables = (ushort)rows.Length,
            Clock = push.Clock,
            Chunk = push.Work is { } work ? AppliedChunks.Number(work.Epoch, work.Chunk) : -1,
            Loss = push.Loss,
            LearningRate = push.LearningRate,
            PayloadBytes = (partial ? present.Length : 0) + channel.Layout.DenseBytes + sparse,
        });
        if (partial) channel.Stream.Write(present);
        WriteDense(channel, push.Gradients);
        foreach (RowGradients gradients in rows)
        {
            ReadOnlySpan<int> shape = [gradients.Table, gradients.Ids.Length];
            channel.Stream.Write(MemoryMarshal.AsBytes(shape));
            channel.Stream.Write(MemoryMarshal.AsBytes(gradients.Ids.AsSpan()));
            channel.Stream.Write(MemoryMarshal.AsBytes(gradients.Gradients.AsSpan()));
        }
    }

    private void WriteDense(ShardChannel channel, IReadOnlyList<ParameterMemory> values)
    {
        foreach (ParameterSlice slice in channel.Layout.Slices)
        {
            ParameterMemory memory = values[parameterIndex[slice.Parameter]];
            if (memory.IsAbsent) WriteZeros(channel, slice.Length);
            else channel.Stream.Write(MemoryMarshal.AsBytes(memory.Slice(slice.Start, slice.Length)));
        }
    }

    private static void WriteZeros(ShardChannel channel, int length)
    {
        Span<byte> zeros = stackalloc byte[4096];
        zeros.Clear();
        for (long left = (long)length * sizeof(float); left > 0; left -= zeros.Length) channel.Stream.Write(zeros[..(int)Math.Min(left, zeros.Length)]);
    }

    /// <summary>The rows of each server, every id once.</summary>
    private RowGradients[][] SplitRows(IReadOnlyList<RowGradients> rows)
    {
        var split = new List<RowGradients>[channels.Length];
        for (int server = 0; server < split.Length; server++) split[server] = [];
        foreach (IGrouping<int, RowGradients> table in rows.GroupBy(static gradients => gradients.Table))
        {
            int dimension = tables[table.Key].Dimension;
            long[] ids = [.. table.SelectMany(static part => part.Ids)];
            float[] sums = [.. table.SelectMany(static part => part.Gradients)];
            int distinct = SparseRows.Combine(ids, sums, dimension);
            for (int server = 0; server < split.Length; server++)
            {
                int[] mine = [.. Enumerable.Range(0, distinct).Where(i => SparseRows.ServerOf(ids[i], channels.Length) == server)];
                if (mine.Length == 0) continue;
                var gradients = new float[mine.Length * dimension];
                for (int i = 0; i < mine.Length; i++) sums.AsSpan(mine[i] * dimension, dimension).CopyTo(gradients.AsSpan(i * dimension));
                split[server].Add(new RowGradients(table.Key, [.. mine.Select(i => ids[i])], gradients));
            }
        }

        return [.. split.Select(static gradients => gradients.ToArray())];
    }
}

using System.Diagnostics;
using System.Runtime.InteropServices;
using Skein.ParameterServer.Control;
using Skein.ParameterServer.Wire;

namespace Skein.ParameterServer.Shards;

/// <summary>
/// What a shard does with each message: the consistency model, staleness, and exactly-once application. One thread
/// calls it, so it needs no locks; shards know nothing of one another.
/// </summary>
internal sealed unsafe class ShardProtocol : IDisposable
{
    private readonly JobSettings settings;
    private readonly Consistency consistency;
    private readonly StalenessWeighting weighting;
    private readonly ClockTable clocks = new();
    private readonly SortedDictionary<int, StagedPush> contributions = [];
    private readonly List<ShardRequest> waitingPulls = [];
    private readonly AppliedChunks appliedChunks = new();
    private readonly Dictionary<int, long> pulledVersions = [];
    private readonly Dictionary<int, float[]> pulledParameters = [];
    private readonly Queue<(long Forwarded, ShardConnection Peer, MessageHeader Answer, nint? Payload)> unreplicated = new();
    private readonly ShardCheckpoint? checkpoint;
    private ReplicaLink? replica;
    private StagingPool? pool;
    private ShardModel? model;
    private long replicated;
    private double stepLoss;
    private string? divergence;
    private bool stopRequested;

    public ShardProtocol(JobSettings settings, int shard)
    {
        this.settings = settings;
        consistency = Consistency.Parse(settings.Consistency);
        weighting = StalenessWeighting.Parse(settings.StalenessWeighting);
        checkpoint = settings.CheckpointDirectory is { } directory ? new ShardCheckpoint(directory, shard) : null;
        for (int worker = 0; worker < settings.Workers; worker++) clocks.Set(worker, 0);
        Counts = new ShardCounts(shard);
    }

    public ShardCounts Counts { get; }

    public ShardLayout Layout => (model ?? throw new InvalidOperationException("the shard has no layout yet")).Layout;

    /// <summary>The backup's stream; null for none. Without one, what waited for the backup is answered.</summary>
    public ReplicaLink? Replica
    {
        get => replica;
        set
        {
            replica = value;
            if (value is null) Replicated(long.MaxValue);
            replicated = 0;
        }
    }

    public void Process(ShardRequest request)
    {
        if (request.Header.Kind != MessageKind.Open && model is null)
        {
            request.Peer.Refuse(request.Header, "nothing has been opened in this shard yet");
            return;
        }

        switch (request.Header.Kind)
        {
            case MessageKind.Open:
                Open(request);
                break;
            case MessageKind.Initialize:
                Initialize(request, request.Push!);
                break;
            case MessageKind.Push:
                Push(request, request.Push!);
                break;
            case MessageKind.Pull:
                waitingPulls.Add(request);
                break;
            case MessageKind.PullRows:
                PullRows(request);
                break;
            case MessageKind.Restore:
                Restore(request);
                break;
            case MessageKind.Return:
                Return(request);
                break;
            default:
                Leave(request);
                break;
        }

        ServePulls();
    }

    /// <summary>The backup has everything up to message <paramref name="sequence"/>.</summary>
    public void Replicated(long sequence)
    {
        replicated = sequence;
        while (unreplicated.TryPeek(out var waiting) && waiting.Forwarded <= sequence)
        {
            unreplicated.Dequeue();
            Send(waiting.Peer, waiting.Answer, waiting.Payload);
        }
    }

    /// <summary>Nobody waits for <paramref name="worker"/> from now on.</summary>
    public void Remove(int worker)
    {
        if (!clocks.Remove(worker)) return;
        ApplyWhenComplete();
        ServePulls();
    }

    /// <summary>A connection was closed; what it asked for needs no answer.</summary>
    public void Forget(ShardConnection peer) => waitingPulls.RemoveAll(pull => pull.Peer == peer);

    /// <summary>Answers pulls that have waited too long, naming whom they waited for.</summary>
    public void ExpirePulls()
    {
        foreach (ShardRequest pull in waitingPulls.Where(pull => Stopwatch.GetElapsedTime(pull.Arrived).TotalSeconds > settings.TimeoutSeconds).ToArray())
        {
            waitingPulls.Remove(pull);
            string reason = model!.Initialized
                ? $"for {clocks.Behind(pull.Header.Clock, consistency.Bound ?? 0)}"
                : "for the initial parameters, which no worker has sent";
            pull.Peer.Refuse(pull.Header, $"worker {pull.Worker} waited {settings.TimeoutSeconds:0.#} s at clock {pull.Header.Clock} in server shard {Counts.Shard} {reason} ({consistency})");
        }
    }

    /// <summary>Writes the state to disk now.</summary>
    /// <exception cref="ParameterServerException">There is nowhere to write to, or nothing yet.</exception>
    public string SaveCheckpoint() => checkpoint is null
        ? throw new ParameterServerException("the job has no checkpoint directory; start it with --checkpoint-dir DIR")
        : checkpoint.Save(model is { Initialized: true } ? model : throw new ParameterServerException("the shard has no parameters yet"));

    public ShardStatistics Statistics(long generation, long received, long sent) =>
        Counts.Snapshot(generation, model?.Version ?? 0, model?.StoredRows ?? 0, received, sent);

    public void Dispose()
    {
        model?.Dispose();
        pool?.Dispose();
    }

    private void Open(ShardRequest request)
    {
        ShardLayout asked = request.Layout!;
        if (model is null)
        {
            try
            {
                model = new ShardModel(asked, settings.Optimizer);
            }
            catch (Exception error) when (error is OutOfMemoryException or OverflowException)
            {
                request.Peer.Refuse(
                    request.Header, $"worker {request.Worker} asked for {asked.DenseLength} values, for which this server has no memory");
                return;
            }

            pool = new StagingPool(asked.DenseLength);
        }
        else if (model.Layout.Difference(asked) is { } difference)
        {
            request.Peer.Refuse(request.Header, $"worker {request.Worker} has another model than the job: {difference}");
            return;
        }

        if (!clocks.Contains(request.Worker) && settings.Elastic && request.Worker >= settings.Workers && !Counts.HasLeft(request.Worker))
        {
            clocks.Set(request.Worker, clocks.Minimum == long.MaxValue ? 0 : clocks.Minimum);
        }

        if (request.Peer.FromPrimary) checkpoint?.Continue();
        request.Peer.Open(model.Layout, pool!);
        replica?.Forward(request.Header, asked.ToBytes());
        var answer = new MessageHeader
        {
            Kind = MessageKind.Opened,
            Clock = clocks.Of(request.Worker) ?? 0,
            Version = model.Version,
            Flags = model.Initialized ? MessageFlags.Initialized : MessageFlags.None,
        };
        if (!settings.Restore || checkpoint is null || request.Peer.FromPrimary)
        {
            Answer(request, answer);
            return;
        }

        // The shards' newest may be of different steps after a crash: the worker chooses one that all have.
        byte[] choice = MemoryMarshal.AsBytes(model.Initialized ? [checkpoint.Restored] : checkpoint.Versions()).ToArray();
        answer.Sequence = request.Header.Sequence;
        answer.PayloadBytes = choice.Length;
        request.Peer.Send(answer, choice);
    }

    private void Restore(ShardRequest request)
    {
        if (checkpoint is null)
        {
            request.Peer.Refuse(request.Header, $"worker {request.Worker} asked for a checkpoint, but the job has no checkpoint directory");
            return;
        }

        if (!model!.Initialized)
        {
            replica?.Forward(request.Header);
            checkpoint.Load(model, request.Header.Version);
        }

        Answer(request, new MessageHeader { Kind = MessageKind.Acknowledged });
    }

    private void Initialize(ShardRequest request, StagedPush values)
    {
        if (!model!.Initialized)
        {
            replica?.Forward(request.Header, push: values);
            model.Initialize(values);
        }

        values.Release();
        Answer(request, new MessageHeader { Kind = MessageKind.Acknowledged });
    }

    private void Push(ShardRequest request, StagedPush push)
    {
        MessageHeader header = request.Header;
        if (Objection(request, push) is { } objection)
        {
            push.Release();
            Counts.Rejected++;
            request.Peer.Refuse(header, objection);
            return;
        }

        bool repeated = header.Clock < clocks.Of(request.Worker) || contributions.ContainsKey(request.Worker);
        if (!repeated)
        {
            if (!request.Peer.FromPrimary && !consistency.Synchronous) header.LearningRate *= Weigh(push);
            replica?.Forward(header, push: push);
            Apply(header, push);
        }
        else
        {
            push.Release();
        }

        Answer(request, new MessageHeader { Kind = MessageKind.Acknowledged, Clock = header.Clock });

        // A backup would write the same file.
        if (settings.CheckpointEvery > 0 && checkpoint is not null && !request.Peer.FromPrimary && model!.Version >= checkpoint.LastVersion + settings.CheckpointEvery) checkpoint.Save(model);
    }

    private string? Objection(ShardRequest request, StagedPush push)
    {
        if (!model!.Initialized) return $"worker {request.Worker} pushed before the parameters had their initial values";
        if (!push.Finite && !settings.AllowNonFinite && !request.Peer.FromPrimary)
        {
            // A divergence shows at all workers at once; one cause is told to all of them.
            return divergence ??= $"worker {request.Worker} pushed gradients with NaN or infinity at clock {request.Header.Clock}; nothing of the push was applied: "
                + "lower the learning rate, or look at that worker's data";
        }

        // What the primary forwards was accepted there.
        if (request.Peer.FromPrimary) return null;
        if (clocks.Of(request.Worker) is not { } clock) return $"worker {request.Worker} pushed, but it is no longer part of the job";
        return consistency.Synchronous && request.Header.Clock > clock
            ? $"worker {request.Worker} pushed for clock {request.Header.Clock}, but its clock is {clock}"
            : null;
    }

    /// <summary>The factor of the learning rate, by how stale the gradient is; compensates its delay besides.</summary>
    private double Weigh(StagedPush push)
    {
        int worker = push.Header.Worker;
        long staleness = model!.Version - pulledVersions.GetValueOrDefault(worker, model.Version);
        Counts.UpdateStaleness.Add(staleness);
        if (pulledParameters.TryGetValue(worker, out float[]? pulled)) model.Compensate(push, pulled, settings.DelayCompensation);
        return weighting.Weight(staleness);
    }

    private void Apply(in MessageHeader header, StagedPush push)
    {
        Counts.Pushes++;
        if (consistency.Synchronous)
        {
            push.Header = header;
            contributions[header.Worker] = push;
            ApplyWhenComplete();
            return;
        }

        if (header.Chunk < 0 || appliedChunks.Add(header.Chunk)) model!.Apply(push, header.LearningRate);
        push.Release();
        if (clocks.Contains(header.Worker)) clocks.Set(header.Worker, header.Clock + 1);
    }

    /// <summary>Bulk-synchronous (Valiant 1990): one update with the sum of all workers' gradients, in the order of their ids.</summary>
    private void ApplyWhenComplete()
    {
        if (contributions.Count == 0 || !clocks.Workers.All(contributions.ContainsKey)) return;
        StagedPush[] pushes = [.. contributions.Values];
        StagedPush sum = pool!.Rent();
        model!.Combine(pushes, sum);
        model.Apply(sum, pushes[0].Header.LearningRate);
        sum.Release();
        stepLoss = pushes.Sum(static push => push.Header.Loss);
        stopRequested |= pushes.Any(static push => push.Header.Flags.HasFlag(MessageFlags.Stop));
        foreach (StagedPush push in pushes)
        {
            Counts.UpdateStaleness.Add(0);
            if (clocks.Contains(push.Header.Worker)) clocks.Set(push.Header.Worker, push.Header.Clock + 1);
            push.Release();
        }

        contributions.Clear();
    }

    private void ServePulls()
    {
        if (waitingPulls.Count == 0 || !model!.Initialized) return;
        long minimum = clocks.Minimum;
        for (int i = 0; i < waitingPulls.Count;)
        {
            ShardRequest pull = waitingPulls[i];
            if (pull.Header.Clock < 0 || consistency.Bound is not { } bound || pull.Header.Clock - bound <= minimum)
            {
                waitingPulls.RemoveAt(i);
                Serve(pull, minimum);
            }
            else
            {
                i++;
            }
        }
    }

    private void Serve(ShardRequest pull, long minimum)
    {
        Counts.Pulls++;
        if (pull.Header.Clock >= 0 && clocks.Contains(pull.Worker)) Counts.ClockStaleness.Add(Math.Max(0, pull.Header.Clock - minimum));
        pulledVersions[pull.Worker] = model!.Version;
        if (settings.DelayCompensation > 0 && !consistency.Synchronous) KeepPulled(pull.Worker);
        bool same = pull.Header.Version == model.Version;
        var answer = new MessageHeader
        {
            Kind = MessageKind.Parameters,
            Sequence = pull.Header.Sequence,
            Clock = pull.Header.Clock,
            Version = model.Version,
            Loss = stepLoss,
            Flags = (same ? MessageFlags.NotModified : MessageFlags.None) | (stopRequested ? MessageFlags.Stop : MessageFlags.None),
            PayloadBytes = same ? 0 : model.Layout.DenseBytes,
        };

        // A synchronous worker must not be a step ahead of the backup when that takes over.
        if (consistency.Synchronous) SendReplicated(pull.Peer, answer, (nint)model.Parameters);
        else Send(pull.Peer, answer, (nint)model.Parameters);
    }

    private void KeepPulled(int worker)
    {
        int length = checked((int)model!.Layout.DenseLength);
        if (!pulledParameters.TryGetValue(worker, out float[]? kept)) pulledParameters[worker] = kept = new float[length];
        new ReadOnlySpan<float>(model.Parameters, length).CopyTo(kept);
    }

    private void PullRows(ShardRequest request)
    {
        TableSpec table = model!.Layout.Tables[request.Header.Tables];
        foreach (long id in request.Ids)
        {
            if (id >= 0 && id < table.Rows) continue;
            request.Peer.Refuse(request.Header, $"table '{table.Name}' has rows 0 to {table.Rows - 1}, but worker {request.Worker} asked for row {id}");
            return;
        }

        var rows = new float[request.Ids.Length * table.Dimension];
        model.PullRows(request.Header.Tables, request.Ids, rows);
        var answer = new MessageHeader { Kind = MessageKind.Rows, Sequence = request.Header.Sequence, PayloadBytes = rows.Length * sizeof(float) };
        request.Peer.Send(answer, MemoryMarshal.AsBytes(rows.AsSpan()).ToArray());
    }

    private void Leave(ShardRequest request)
    {
        replica?.Forward(request.Header);
        Counts.Left(request.Worker);
        clocks.Remove(request.Worker);
        ApplyWhenComplete();
        Answer(request, new MessageHeader { Kind = MessageKind.Acknowledged });
    }

    private void Return(ShardRequest request)
    {
        replica?.Forward(request.Header);
        Counts.Returned(request.Worker);
        clocks.Set(request.Worker, request.Header.Clock);

        // Whoever ended the fit before did not mean this one.
        stopRequested = false;
        Answer(request, new MessageHeader { Kind = MessageKind.Acknowledged });
    }

    /// <summary>Answers now, or once the backup has what was forwarded.</summary>
    private void Answer(ShardRequest request, MessageHeader answer)
    {
        answer.Sequence = request.Header.Sequence;
        SendReplicated(request.Peer, answer, null);
    }

    private void SendReplicated(ShardConnection peer, MessageHeader answer, nint? payload)
    {
        if (replica is null || replica.Forwarded <= replicated) Send(peer, answer, payload);
        else unreplicated.Enqueue((replica.Forwarded, peer, answer, payload));
    }

    private static void Send(ShardConnection peer, in MessageHeader answer, nint? payload)
    {
        if (payload is { } memory) peer.Send(answer, (byte*)memory);
        else peer.Send(answer);
    }
}

using System.Diagnostics;
using System.Runtime.InteropServices;
using Microsoft.Extensions.Logging;
using Skein.Collectives;
using Skein.Training.Decentralized;
using static TorchSharp.torch;
using TensorPrimitives = System.Numerics.Tensors.TensorPrimitives;

namespace Skein.Training;

/// <summary>
/// Asynchronous stochastic gradient push (Assran et al. 2019, algorithm 1, overlapping): every rank has an optimizer of its
/// own, x and a weight w. After each step it sends half of both to one other rank, in the background, adds whatever has
/// come, and computes the next gradients at x / w. No rank waits for another while it trains.
/// </summary>
/// <remarks>
/// A rank that is lost takes its mass with it, and the others go on without it; rank 0, where all meet in the end, has to
/// stay. A process that is started again for a lost rank comes into the first fit at rank 0's step, with rank 0's model and
/// half of its x and w, so that the sums over the living stay what they were; its optimizer begins anew. After a fit
/// <see cref="Rank"/> and <see cref="WorldSize"/> count those that finished, who have the same parameters. A step's loss is that of this rank's samples, before the update. One for each process. Not deterministic. Not thread-safe.
/// </remarks>
public sealed class GossipPush : Strategy
{
    // While nobody is lost, a low weight passes: the rest of the mass is somewhere, and comes.
    private const int MostStepsWithLittle = 16;
    private static readonly TimeSpan LongestWithLittle = TimeSpan.FromSeconds(1);

    private readonly PushNetwork network;
    private readonly GossipOptions options;
    private readonly IReadOnlyList<int> neighbours;
    private nn.Module? model;
    private FlatParameters? parameters;
    private PushSum? sum;
    private PushReceiver? receiver;
    private PushSender? sender;
    private Meeting? meeting;
    private MeetingHost? host;
    private float[] own = [];
    private float[] change = [];
    private int[] finished;
    private StepOutcome last;
    private long steps;
    private long firstStep;
    private int stepsWithLittle;
    private long littleSince;
    private bool comesBack;
    private volatile bool training;
    private volatile bool anyLost;

    private GossipPush(PushNetwork network, GossipOptions options)
    {
        this.network = network;
        this.options = options;
        neighbours = options.Topology.Neighbours(network.WorldSize, options.Seed)[network.Rank];
        finished = [.. Enumerable.Range(0, network.WorldSize)];
        network.PeerLost += Report;
    }

    /// <inheritdoc/>
    public override int Rank => Array.IndexOf(finished, network.Rank);

    /// <inheritdoc/>
    public override int WorldSize => finished.Length;

    /// <summary>The bytes that this rank has pushed to others.</summary>
    public long BytesSent => sender?.BytesSent ?? 0;

    /// <summary>How far the ranks' x / w were from the average at the end of the last fit: √(1/n Σ_i ‖x_i / w_i - x̄‖²). NaN before.</summary>
    public double ConsensusDistance { get; private set; } = double.NaN;

    /// <summary>Σ w at the end of the last fit: as many as there are ranks, as long as none was lost. NaN before.</summary>
    public double Weight { get; private set; } = double.NaN;

    /// <summary>How many times a lost rank has come back, as rank 0 counts; 0 on the others.</summary>
    public int Restarts => host?.Restarts ?? 0;

    /// <summary>Takes this process's place in a job whose store <paramref name="place"/> names. Does not wait for the other ranks.</summary>
    /// <exception cref="ArgumentException">There is no such graph, or an option does not fit.</exception>
    /// <exception cref="SkeinException">The store was not reached, or this process cannot listen.</exception>
    public static async Task<GossipPush> JoinAsync(ProcessGroupOptions place, GossipOptions? options = null, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(place);
        options ??= new GossipOptions { Topology = GossipTopology.Parse("exponential") };
        options.Validate(place.WorldSize);
        if (options.Compression.Method != Compression.CompressionMethod.None) throw new ArgumentException($"the compression is {options.Compression}, which stochastic gradient push has not: give none");
        return new GossipPush(await PushNetwork.JoinAsync(place, cancellationToken).ConfigureAwait(false), options);
    }

    /// <summary>
    /// Waits for all ranks, checks that they have the same model, and overwrites its parameters and buffers by those of rank 0.
    /// For a rank that was lost and is back: waits until rank 0 lets it in, after its next step.
    /// </summary>
    /// <exception cref="InvalidOperationException">The ranks' models differ, or another model is attached already.</exception>
    /// <exception cref="RendezvousException">This rank came back when training had ended.</exception>
    public override void Attach(nn.Module model)
    {
        ArgumentNullException.ThrowIfNull(model);
        if (ReferenceEquals(this.model, model))
        {
            TakeChanges();
            return;
        }

        if (this.model is not null) throw new InvalidOperationException("another model is attached already; a GossipPush trains one");
        parameters = new FlatParameters(model);
        own = parameters.NewVector();
        change = parameters.NewVector();
        sum = new PushSum(own);
        receiver = new PushReceiver(network, sum);
        sender = new PushSender(network, sum, step => options.Topology.OutNeighbour(network.Rank, step, network.WorldSize, neighbours));
        int longest = Math.Max(FinalAverage.MaximumLength(parameters.Length, network.WorldSize), ModelState.MaximumLength(model));
        longest = Math.Max(longest, checked((1 << 20) + (network.WorldSize * network.WorldSize * sizeof(long))));
        host = network.Rank == 0 ? new MeetingHost(network, longest) : null;
        meeting = host;
        network.Accept(parameters.Length, (hello, socket) => hello.Kind == PushLinkKind.Push
            ? receiver.ServeAsync(hello.Rank, hello.Incarnation, socket)
            : host?.ServeAsync(hello.Rank, hello.Incarnation, socket) ?? throw new InvalidDataException($"rank {hello.Rank} wants to meet at rank {network.Rank}, but all meet at rank 0"));
        meeting ??= MeetingGuest.JoinAsync(network, longest, CancellationToken.None).GetAwaiter().GetResult();
        Admission? admission = ModelState.Unify(meeting, model);
        parameters.Read(own);
        sum.Begin(own, admission?.Weight ?? 1);
        firstStep = steps = admission?.Step ?? 0;
        // The others wait for who was let in at the end, even when no step is left.
        if (admission is not null) training = comesBack = anyLost = true;
        this.model = model;
    }

    /// <inheritdoc/>
    protected internal override long FirstStep => firstStep;

    /// <inheritdoc/>
    /// <remarks>Each rank divides by the weight of its own samples, as its steps are its own.</remarks>
    protected internal override bool TakesLossSums => true;

    /// <inheritdoc/>
    protected internal override StepOutcome ComputeGradients(StepBatch batch)
    {
        ArgumentNullException.ThrowIfNull(batch);
        training = true;
        comesBack = false;
        meeting!.ThrowIfLost();
        if (batch.StopRequested) meeting.RequestStop();
        if (batch.LocalSize > 0) last = batch.Outcome(batch.RunBackward((double)batch.GlobalSize / batch.LocalSize, static (loss, _) => loss.backward()));
        return last with { Stop = meeting.StopRequested };
    }

    /// <inheritdoc/>
    protected internal override void UpdateParameters(optim.Optimizer optimizer)
    {
        long start = Stopwatch.GetTimestamp();
        parameters!.Read(own);
        CommunicationTime += Stopwatch.GetElapsedTime(start);
        base.UpdateParameters(optimizer);
        start = Stopwatch.GetTimestamp();
        parameters.Read(change);
        TensorPrimitives.Subtract(change, own, change);
        sum!.Step(change);
        if (network.WorldSize > 1) sender!.Push(steps);
        steps++;
        if (anyLost) TakeCareOfLittle();
        sum.Fold(own);
        parameters.Write(own);
        if (host is { IsAsked: true }) host.Admit(Welcome);
        CommunicationTime += Stopwatch.GetElapsedTime(start);
    }

    /// <inheritdoc/>
    protected internal override void Complete()
    {
        if (!training) return;
        long start = Stopwatch.GetTimestamp();
        (firstStep, comesBack) = (0, false);
        host?.Close(ModelState.TooLate("rank 0 had ended its first fit when this rank came back, which is too late to take part; the others go on without it"));
        sender!.Drain();
        WaitForMessages();
        meeting!.ForgetStop();
        double weight = sum!.TakeAll(own);
        byte[] answer = meeting.Round("the final average", FinalAverage.Encode(own, weight), all => FinalAverage.Answer(all, own.Length));
        FinalAverage average = FinalAverage.Decode(answer, own.Length);
        training = false;
        (ConsensusDistance, Weight, finished) = (average.Distance, average.Weight, average.Finished);
        average.Mean.CopyTo(own, 0);
        parameters!.Write(own);
        sum.Begin(own);
        CommunicationTime += Stopwatch.GetElapsedTime(start);
    }

    /// <inheritdoc/>
    public override void SynchronizeBuffers()
    {
        CheckFitted();
        Tensor[] buffers = [.. model!.buffers()];
        if (buffers.Length == 0) return;
        ModelState.Write(buffers, meeting!.Round("taking over rank 0's buffers", [], _ => ModelState.Read(buffers)));
    }

    /// <inheritdoc/>
    protected internal override void Sum(Span<double> values)
    {
        CheckFitted();
        int length = values.Length;
        byte[] answer = meeting!.Round("a sum", MemoryMarshal.AsBytes(values).ToArray(), all =>
        {
            var total = new double[length];
            foreach (byte[] bytes in all.OfType<byte[]>()) TensorPrimitives.Add(total, MemoryMarshal.Cast<byte, double>(bytes), total);
            return MemoryMarshal.AsBytes(total.AsSpan()).ToArray();
        });
        MemoryMarshal.Cast<byte, double>(answer).CopyTo(values);
    }

    /// <inheritdoc/>
    public override double[][] Gather(ReadOnlySpan<double> values)
    {
        // Ranks that were lost have left zeros, also in front.
        double[][] all = base.Gather([1, .. values]);
        return [.. all.Where(static row => row[0] > 0).Select(static row => row[1..])];
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        if (disposing)
        {
            training = false;
            network.PeerLost -= Report;
            sender?.DisposeAsync().AsTask().GetAwaiter().GetResult();
            meeting?.DisposeAsync().AsTask().GetAwaiter().GetResult();
            network.DisposeAsync().AsTask().GetAwaiter().GetResult();
            receiver?.Dispose();
        }

        base.Dispose(disposing);
    }

    /// <summary>Values that were put into the model between two fits become x, on all ranks the same.</summary>
    private void TakeChanges()
    {
        if (!parameters!.AreThoseOf(model!))
        {
            throw new InvalidOperationException(
                "other parameters are trained than when the model was attached, which pushes to other ranks have no place for: " +
                "freeze and unfreeze before the first fit");
        }

        if (training) return;
        parameters.Read(own);
        sum!.Begin(own);
    }

    private (byte[] Answer, bool Admitted) Welcome(int peer, byte[] fingerprint)
    {
        (byte[] answer, bool admitted) = ModelState.Welcome(model!, peer, fingerprint, () => new Admission(steps, sum!.GiveHalf()));
        if (admitted) network.Options.Logger.LogWarning("rank {Peer} is back, from step {Step} on", peer, steps + 1);
        return (answer, admitted);
    }

    /// <summary>What this rank would bring to a round now would be taken for something else by the others, who train.</summary>
    private void CheckFitted()
    {
        if (comesBack) throw new InvalidOperationException($"rank {network.Rank} came back into a fit that is under way, so that the fit has to be what its program does first with the strategy");
    }

    /// <summary>Those who were lost may have taken so much that no one who is left has enough to share.</summary>
    private void TakeCareOfLittle()
    {
        if (sum!.Weight >= PushSum.LeastToShare) stepsWithLittle = 0;
        else if (stepsWithLittle++ == 0) littleSince = Stopwatch.GetTimestamp();
        if (stepsWithLittle < MostStepsWithLittle || Stopwatch.GetElapsedTime(littleSince) < LongestWithLittle) return;
        sum.Rescale();
        stepsWithLittle = 0;
    }

    /// <summary>All stop pushing, and each takes in what the others say they have sent to it.</summary>
    private void WaitForMessages()
    {
        int peers = network.WorldSize;
        byte[] answer = meeting!.Round("the end of training", MemoryMarshal.AsBytes(sender!.Delivered).ToArray(), all =>
        {
            var table = new Delivery[peers * peers];
            for (int peer = 0; peer < peers; peer++)
            {
                if (all[peer] is { } bytes) MemoryMarshal.Cast<byte, Delivery>(bytes).CopyTo(table.AsSpan(peer * peers, peers));
            }

            return MemoryMarshal.AsBytes(table.AsSpan()).ToArray();
        });
        ReadOnlySpan<Delivery> table = MemoryMarshal.Cast<byte, Delivery>(answer);
        for (int peer = 0; peer < peers; peer++)
        {
            Delivery here = table[(peer * peers) + network.Rank];
            // What went to a process of this rank that was lost will not come.
            if (here.Incarnation == network.Incarnation) receiver!.WaitFor(peer, here.Count);
        }
    }

    private void Report(int peer)
    {
        anyLost = true;
        if (training && network.Rank == 0) network.Options.Logger.LogWarning("rank {Peer} was lost; the others go on without it", peer);
    }
}

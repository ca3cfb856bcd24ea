using System.Diagnostics;
using System.Runtime.InteropServices;
using Skein.Collectives;
using Skein.Training.Compression;
using Skein.Training.Decentralized;
using Skein.Training.Gradients;
using static TorchSharp.torch;
using TensorPrimitives = System.Numerics.Tensors.TensorPrimitives;

namespace Skein.Training;

/// <summary>
/// Training without a centre: every rank has an optimizer of its own, and in each step moves towards the parameters of
/// its neighbours in a graph. D-PSGD (Lian et al. 2017, algorithm 1): x_i ← Σ_j W_ij x_j - γ ∇F_i(x_i), with the
/// optimizer's update in place of the plain gradient step. The exchange goes on while the gradients are computed. With
/// compression CHOCO-SGD (Koloskova et al. 2019, algorithm 2), whose messages are compressed differences.
/// </summary>
/// <remarks>
/// A step's loss is that of this rank's samples, before the update. A wish to stop spreads through the graph, and all
/// ranks end after the same step, at most as many steps later as there are ranks. At the end of a fit the ranks average
/// exactly, so that all have the same parameters. Bitwise deterministic. Loses a rank as the process group does: all end
/// with an error that names it. Not thread-safe.
/// </remarks>
public sealed class Gossip : Strategy
{
    private readonly ProcessGroup group;
    private readonly GossipOptions options;
    private readonly IReadOnlyList<int> neighbours;
    private readonly ConsensusHistory history;
    private nn.Module? model;
    private FlatParameters? parameters;
    private NeighbourExchange? exchange;
    private PublicCopies? copies;
    private float[] own = [];
    private float[] change = [];
    private StepOutcome last;
    private long steps;
    private bool apart;

    /// <summary>Trains on the ranks of <paramref name="group"/>, which stays the caller's to dispose, after this.</summary>
    /// <exception cref="ArgumentException">There is no such graph, or an option is out of range.</exception>
    public Gossip(ProcessGroup group, GossipOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(group);
        this.group = group;
        this.options = options ?? new GossipOptions();
        this.options.Validate(group.WorldSize);
        IReadOnlyList<IReadOnlyList<int>> graph = this.options.Topology.Neighbours(group.WorldSize, this.options.Seed);
        Mixing = MixingMatrix.MetropolisHastings(graph);
        neighbours = [.. graph[group.Rank].Order()];
        history = new ConsensusHistory(this.options.MeasureEvery);
    }

    /// <summary>The weights of the average.</summary>
    public MixingMatrix Mixing { get; }

    /// <summary>The bytes of this rank's messages to its neighbours, which the group does not count among its collectives'.</summary>
    public long BytesSent => exchange?.BytesSent ?? 0;

    /// <summary>What compression has done on this rank so far, against messages of float32.</summary>
    public CompressionStatistics CompressionStatistics => new(
        BytesSent, steps * neighbours.Count * own.Length * sizeof(float), copies?.ComputeTime ?? default, copies?.RelativeError ?? 0);

    /// <summary>How far the ranks were apart before they averaged at the end of the last fit: √(1/n Σ_i ‖x_i - x̄‖²). NaN before.</summary>
    public double ConsensusDistance { get; private set; } = double.NaN;

    /// <summary>What was measured in between, as <see cref="GossipOptions.MeasureEvery"/> says.</summary>
    public IReadOnlyList<ConsensusDistance> ConsensusHistory => history.Values;

    internal override IEnumerable<ProcessGroup> Peers => [group];

    /// <inheritdoc/>
    public override int Rank => group.Rank;

    /// <inheritdoc/>
    public override int WorldSize => group.WorldSize;

    /// <summary>Checks that all ranks have the same model, and overwrites its parameters and buffers by those of rank 0.</summary>
    /// <exception cref="InvalidOperationException">The ranks' models differ, or another model is attached already.</exception>
    public override void Attach(nn.Module model)
    {
        ArgumentNullException.ThrowIfNull(model);
        bool isFirst = this.model is null;
        if (!isFirst && !ReferenceEquals(this.model, model)) throw new InvalidOperationException("another model is attached already; use one Gossip for each model");
        if (!isFirst && parameters!.AreThoseOf(model)) return;
        parameters = new FlatParameters(model);
        if (isFirst) Replicas.Unify(group, model);
        else Replicas.Check(group, model);
        own = parameters.NewVector();
        change = parameters.NewVector();
        if (options.Compression.Method != CompressionMethod.None)
        {
            parameters.Read(own);
            copies = new PublicCopies(options.Compression, options.Seed, own);
        }

        exchange = new NeighbourExchange(group, neighbours, copies?.Capacity ?? checked(parameters.Length * sizeof(float)));
        this.model = model;
    }

    /// <inheritdoc/>
    /// <remarks>Each rank divides by the weight of its own samples, as its steps are its own.</remarks>
    protected internal override bool TakesLossSums => true;

    /// <inheritdoc/>
    protected internal override StepOutcome ComputeGradients(StepBatch batch)
    {
        ArgumentNullException.ThrowIfNull(batch);
        if (batch.StopRequested) exchange!.RequestStop(steps);
        bool stop = exchange!.StopsAfter(steps);
        if (copies is null)
        {
            long start = Stopwatch.GetTimestamp();
            parameters!.Read(own);
            MemoryMarshal.AsBytes(own.AsSpan()).CopyTo(exchange.Payload);
            exchange.Start(own.Length * sizeof(float), steps);
            CommunicationTime += Stopwatch.GetElapsedTime(start);
        }

        if (batch.LocalSize > 0) last = batch.Outcome(batch.RunBackward((double)batch.GlobalSize / batch.LocalSize, static (loss, _) => loss.backward()));
        return last with { Stop = stop };
    }

    /// <inheritdoc/>
    protected internal override void UpdateParameters(optim.Optimizer optimizer)
    {
        base.UpdateParameters(optimizer);
        long start = Stopwatch.GetTimestamp();
        if (copies is null) Average();
        else AverageCopies(copies);
        parameters!.Add(change);
        apart = true;
        if (history.IsDue(++steps)) history.Add(steps, Measure());
        CommunicationTime += Stopwatch.GetElapsedTime(start);
    }

    /// <inheritdoc/>
    protected internal override void Complete()
    {
        exchange!.ForgetStop();
        if (!apart) return;
        long start = Stopwatch.GetTimestamp();
        ConsensusDistance = Measure();
        parameters!.Write(change);
        apart = false;
        CommunicationTime += Stopwatch.GetElapsedTime(start);
    }

    /// <inheritdoc/>
    public override void SynchronizeBuffers() => Replicas.Broadcast(group, model!.buffers());

    /// <inheritdoc/>
    protected internal override void Sum(Span<double> values) => group.AllReduce(values);

    /// <summary>What the neighbours draw this rank by, in order of rank: Σ_j W_ij (x_j - x_i).</summary>
    private void Average()
    {
        exchange!.Finish(steps);
        change.AsSpan().Clear();
        double towards = 0;
        for (int i = 0; i < neighbours.Count; i++)
        {
            ReadOnlySpan<float> theirs = MemoryMarshal.Cast<byte, float>(exchange.Received(i));
            double weight = Mixing[Rank, neighbours[i]];
            towards += weight;
            TensorPrimitives.MultiplyAdd(theirs, (float)weight, change, change);
        }

        TensorPrimitives.MultiplyAdd(own, (float)-towards, change, change);
    }

    private void AverageCopies(PublicCopies copies)
    {
        parameters!.Read(own);
        exchange!.Start(copies.Publish(own, Mixing[Rank, Rank], exchange.Payload), steps);
        exchange.Finish(steps);
        for (int i = 0; i < neighbours.Count; i++) copies.Mix(exchange.Received(i), Mixing[Rank, neighbours[i]]);
        copies.Change(options.ConsensusStep, change);
    }

    /// <summary>Leaves the mean in <see cref="change"/>.</summary>
    private double Measure()
    {
        parameters!.Read(own);
        return ConsensusMeter.Measure(group, own, change);
    }
}

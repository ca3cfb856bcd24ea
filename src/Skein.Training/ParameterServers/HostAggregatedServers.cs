using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Text;
using Skein.Collectives;
using Skein.ParameterServer;
using Skein.Training.Gradients;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.ParameterServers;

/// <summary>
/// Parameter servers that see hosts instead of workers: the ranks of a host add their gradients up in shared memory,
/// and the first of them pushes the sum and pulls for all (as Cui et al. 2016, "GeePS", and BytePS do inside a
/// machine). To the servers each host is one worker; a rank without a gradient for a parameter counts as zero there.
/// </summary>
/// <remarks>
/// Static jobs without <see cref="RemoteEmbedding"/>s only. Disposing leaves the job as <see cref="ParameterServerStrategy"/> does.
/// Not thread-safe.
/// </remarks>
public sealed class HostAggregatedServers : Strategy, IAsyncDisposable
{
    private readonly ProcessGroup world;
    private readonly ProcessGroup host;
    private readonly ParameterServerStrategy? leader;
    private readonly bool synchronous;
    private nn.Module? model;
    private Parameter[] parameters = [];
    private SharedBuffer<float>? buffer;

    private HostAggregatedServers(ProcessGroup world, ProcessGroup host, ParameterServerStrategy? leader, JobSettings settings)
    {
        this.world = world;
        this.host = host;
        this.leader = leader;
        Settings = settings;
        synchronous = Consistency.Parse(settings.Consistency).Synchronous;
    }

    /// <inheritdoc/>
    public override int Rank => world.Rank;

    /// <inheritdoc/>
    public override int WorldSize => world.WorldSize;

    /// <summary>What the job's members agree on.</summary>
    public JobSettings Settings { get; }

    /// <summary>The one who talks to the servers for its host; null on the other ranks.</summary>
    public ParameterServerStrategy? Leader => leader;

    /// <summary>Joins a job; every rank of <paramref name="world"/> calls it.</summary>
    /// <param name="world">All ranks; stays the caller's to dispose, after this.</param>
    /// <param name="ranksPerHost">How many consecutive ranks push as one; divides the world size.</param>
    /// <param name="options">The job; null for the one that the environment names.</param>
    /// <param name="cancellationToken">Gives up.</param>
    /// <exception cref="ParameterServerException">The job refused a host, or it is elastic.</exception>
    public static async Task<HostAggregatedServers> JoinAsync(
        ProcessGroup world, int ranksPerHost, ParameterServerOptions? options = null, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(world);
        ArgumentOutOfRangeException.ThrowIfLessThan(ranksPerHost, 1);
        if (world.WorldSize % ranksPerHost != 0) throw new ArgumentException($"{world.WorldSize} ranks do not divide into hosts of {ranksPerHost}", nameof(ranksPerHost));
        options ??= ParameterServerOptions.FromEnvironment();
        (int index, int place) = Math.DivRem(world.Rank, ranksPerHost);
        ProcessGroup host = (await world.SplitAsync(index, world.Rank).ConfigureAwait(false))!;
        ParameterServerStrategy? leader = place == 0
            ? await ParameterServerStrategy.JoinAsync(options with { Rank = index }, cancellationToken).ConfigureAwait(false)
            : null;
        JobSettings settings = Share(host, leader?.Settings);
        return settings.Elastic
            ? throw new ParameterServerException("hosts cannot push as one in an elastic job, whose workers come and go by themselves")
            : new HostAggregatedServers(world, host, leader, settings);
    }

    /// <inheritdoc/>
    public override void Attach(nn.Module model)
    {
        ArgumentNullException.ThrowIfNull(model);
        if (ReferenceEquals(this.model, model)) return;
        if (this.model is not null) throw new InvalidOperationException("another model is attached already; use one strategy for each model");
        if (model.modules().OfType<RemoteEmbedding>().Any()) throw new NotSupportedException("tables on the servers cannot be used where hosts push as one");
        Replicas.Check(world, model);
        leader?.Attach(model);
        parameters = [.. model.parameters().Where(static parameter => parameter.requires_grad)];
        buffer = host.AllocateShared<float>(checked((int)parameters.Sum(static parameter => parameter.numel()) + Extra));
        Replicas.Broadcast(host, [.. model.parameters(), .. model.buffers()]);
        this.model = model;
    }

    /// <inheritdoc/>
    protected internal override StepOutcome ComputeGradients(StepBatch batch)
    {
        ArgumentNullException.ThrowIfNull(batch);
        leader?.BeginFit();
        if (batch.Optimizer is { } optimizer) leader?.Check(optimizer);
        float loss = batch.RunBackward(1, static (loss, _) => loss.backward());
        long start = Stopwatch.GetTimestamp();
        Span<float> values = buffer!.GetSpan();
        int length = values.Length - Extra;
        Gather(values);
        values[length] = loss;
        values[length + 1] = (float)batch.LocalSize / batch.GlobalSize;
        values[length + 2] = batch.StopRequested ? 1 : 0;
        host.AllReduce(values);

        // Where hosts do not add up, each one's update is the mean over its own samples.
        if (!synchronous && values[length + 1] > 0) System.Numerics.Tensors.TensorPrimitives.Divide(values[..(length + 1)], values[length + 1], values[..(length + 1)]);
        var outcome = new StepOutcome(values[length], values[length + 2] > 0);
        if (leader is not null) outcome = leader.Exchange(Memory(), batch.LearningRate, outcome);
        Span<float> agreed = [outcome.Loss, outcome.Stop ? 1 : 0];
        host.Broadcast(agreed);
        Replicas.Broadcast(host, parameters);
        CommunicationTime += Stopwatch.GetElapsedTime(start);
        return new StepOutcome(agreed[0], agreed[1] > 0);
    }

    /// <inheritdoc/>
    protected internal override double ClipGradients(IReadOnlyList<Parameter> parameters, double maxNorm) =>
        throw new NotSupportedException("gradients are pushed to the servers as they are computed, so Trainer.MaxGradientNorm cannot be used with parameter servers");

    /// <summary>Nothing: the servers have done it.</summary>
    protected internal override void UpdateParameters(optim.Optimizer optimizer) { }

    /// <inheritdoc/>
    protected internal override void Complete()
    {
        leader?.Complete();
        Replicas.Broadcast(world, parameters);
    }

    /// <inheritdoc/>
    public override void SynchronizeBuffers() => Replicas.Broadcast(world, model!.buffers());

    /// <inheritdoc/>
    protected internal override void Sum(Span<double> values) => world.AllReduce(values);

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        if (disposing)
        {
            buffer?.Dispose();
            leader?.Dispose();
            host.DisposeAsync().AsTask().GetAwaiter().GetResult();
        }

        base.Dispose(disposing);
    }

    /// <summary>Leaves the job, as <see cref="ParameterServerStrategy.DisposeAsync"/> does.</summary>
    public async ValueTask DisposeAsync()
    {
        if (leader is not null) await leader.DisposeAsync().ConfigureAwait(false);
        Dispose();
    }

    // After the gradients: the loss, the part of the global batch, and the wish to stop.
    private const int Extra = 3;

    private void Gather(Span<float> values)
    {
        int offset = 0;
        foreach (Parameter parameter in parameters)
        {
            int length = checked((int)parameter.numel());
            Span<float> place = values.Slice(offset, length);
            using Tensor? gradient = parameter.grad;
            if (gradient is null)
            {
                place.Clear();
            }
            else
            {
                using Tensor dense = gradient.contiguous();
                MemoryMarshal.Cast<byte, float>(dense.bytes).CopyTo(place);
            }

            offset += length;
        }
    }

    private ParameterMemory[] Memory()
    {
        var memory = new ParameterMemory[parameters.Length];
        nint address = buffer!.Pointer;
        for (int i = 0; i < memory.Length; i++)
        {
            memory[i] = new ParameterMemory(address, parameters[i].numel());
            address += checked((nint)(memory[i].Length * sizeof(float)));
        }

        return memory;
    }

    private static JobSettings Share(ProcessGroup host, JobSettings? settings)
    {
        byte[] json = settings is null ? [] : Encoding.UTF8.GetBytes(settings.ToJson());
        int[] length = [json.Length];
        host.Broadcast(length.AsSpan());
        if (length[0] is <= 0 or > 1 << 20) throw new ParameterServerException($"the host's first rank announced settings of {length[0]} bytes");
        if (settings is null) json = new byte[length[0]];
        host.Broadcast(json.AsSpan());
        return JobSettings.Parse(Encoding.UTF8.GetString(json));
    }
}

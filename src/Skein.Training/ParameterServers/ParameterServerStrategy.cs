using System.Diagnostics;
using Skein.Collectives;
using Skein.ParameterServer;
using Skein.ParameterServer.Control;
using Skein.Training.Data;
using Skein.Training.Gradients;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.ParameterServers;

/// <summary>
/// Parameters live on servers, which update them with the gradients that workers push (Li et al. 2014, "Scaling
/// distributed machine learning with the parameter server"). How far workers may run apart is the job's consistency:
/// bulk-synchronous equals <see cref="DataParallel"/>; bounded staleness (Ho et al. 2013) and asynchronous do not wait
/// for slow workers, and each worker's step is then an update of its own, with the mean gradient over its own samples.
/// </summary>
/// <remarks>
/// The servers' optimizer updates: the <see cref="Trainer"/>'s own has to be the same (<see cref="JobOptimizer"/>), and says the
/// learning rate. Disposing leaves the job, unless a fit or another call failed or was cancelled: then this worker counts as lost.
/// Not thread-safe.
/// </remarks>
public sealed class ParameterServerStrategy : Strategy, IAsyncDisposable
{
    // Of one fit, in an elastic job.
    private const int MostEpochs = 1 << 20;

    private readonly ParameterServerOptions options;
    private readonly CoordinatorClient coordinator;
    private readonly TimeSpan timeout;
    private nn.Module? model;
    private ParameterServerClient? client;
    private RemoteEmbedding[] embeddings = [];
    private (string Name, Parameter Parameter)[] named = [];
    private Parameter[] parameters = [];
    private ParameterMemory[] values = [];
    private (int Epoch, int Chunk)? work, pushed;
    private optim.Optimizer? accepted;
    private long clock;
    private long sums;
    private int fits;
    private float lastLoss;
    private bool fitting;
    private bool failed;
    private bool disposed;
    private int rank;
    private int worldSize;

    private ParameterServerStrategy(ParameterServerOptions options, CoordinatorClient coordinator)
    {
        this.options = options;
        this.coordinator = coordinator;
        Settings = JobSettings.Parse(coordinator.View.Settings);
        timeout = TimeSpan.FromSeconds(Settings.TimeoutSeconds);
        Synchronous = Consistency.Parse(Settings.Consistency).Synchronous;
        rank = coordinator.Id;
        worldSize = Math.Max(Settings.Workers, rank + 1);
    }

    /// <inheritdoc/>
    /// <remarks>In an elastic job, this worker's place among those that were left when the fit ended; before, its id.</remarks>
    public override int Rank => rank;

    /// <inheritdoc/>
    public override int WorldSize => worldSize;

    /// <summary>What the job's members agree on.</summary>
    public JobSettings Settings { get; }

    /// <summary>Whether the servers add all workers' gradients up before they update.</summary>
    internal bool Synchronous { get; }

    /// <summary>The model's parameters, in the order of the gradients to push.</summary>
    internal IReadOnlyList<Parameter> Parameters => parameters;

    /// <summary>Which server holds what; null before a model is attached.</summary>
    public Placement? Placement => client?.Placement;

    /// <summary>The updates of the checkpoint that the servers began with; null when they began with none, or before a model is attached.</summary>
    public long? ResumedFrom { get; private set; }

    /// <summary>Bytes sent to the servers so far.</summary>
    public long BytesSent => client?.BytesSent ?? 0;

    /// <summary>Joins a job; by default the one that the environment names.</summary>
    /// <exception cref="RendezvousException">The coordinator was not reached, or the environment says too little.</exception>
    /// <exception cref="ParameterServerException">The job refused this worker, or has failed.</exception>
    public static async Task<ParameterServerStrategy> JoinAsync(ParameterServerOptions? options = null, CancellationToken cancellationToken = default)
    {
        options ??= ParameterServerOptions.FromEnvironment();
        CoordinatorClient coordinator = await CoordinatorClient.JoinAsync(
            options.CoordinatorHost, options.CoordinatorPort, options.Secret, new WorkerRegistration(options.Rank ?? WorkerRegistration.Extra),
            TimeSpan.FromSeconds(60), cancellationToken).ConfigureAwait(false);
        return new ParameterServerStrategy(options, coordinator);
    }

    /// <summary>What each shard has seen so far.</summary>
    public async Task<IReadOnlyList<ShardStatistics>> GetStatisticsAsync(CancellationToken cancellationToken = default)
    {
        var statistics = new List<ShardStatistics>();
        foreach (ShardView shard in coordinator.View.Shards)
        {
            using var control = new ShardControlClient(shard.Primary.Host, shard.Primary.ControlPort, options.Secret, timeout);
            statistics.Add(await control.GetStatisticsAsync(cancellationToken).ConfigureAwait(false));
        }

        return statistics;
    }

    /// <summary>
    /// Opens the model in the servers. The first worker's initial parameters count, and worker 0's frozen ones and buffers;
    /// <see cref="RemoteEmbedding"/>s of the model become tables. Workers of a job that is neither synchronous nor elastic wait here
    /// for one another, so that all begin with the same parameters.
    /// </summary>
    public override void Attach(nn.Module model)
    {
        ArgumentNullException.ThrowIfNull(model);
        if (ReferenceEquals(this.model, model)) return;
        if (this.model is not null) throw new InvalidOperationException("another model is attached already; use one ParameterServerStrategy for each model");
        Guard(() =>
        {
            try
            {
                Open(model);
            }
            catch (Exception error) when (!Settings.Elastic)
            {
                // Else the others would hear of a lost worker, and not why it is gone.
                coordinator.FailAsync(error.Message).GetAwaiter().GetResult();
                throw;
            }
        });
        this.model = model;
    }

    private void Open(nn.Module model)
    {
        named = [.. model.named_parameters().Where(static entry => entry.parameter.requires_grad)];
        foreach ((string name, Parameter parameter) in named)
        {
            if (parameter.dtype != ScalarType.Float32 || parameter.device_type != DeviceType.CPU || !parameter.is_contiguous())
            {
                throw new NotSupportedException($"parameter '{name}' is {parameter.dtype} on {parameter.device}; parameter servers take contiguous float32 on the CPU");
            }
        }

        embeddings = [.. model.modules().OfType<RemoteEmbedding>()];
        var names = embeddings.GroupBy(static embedding => embedding.Spec.Name);
        if (names.FirstOrDefault(static same => same.Count() > 1) is { Key: { } twice })
        {
            throw new ArgumentException(
                $"two tables of the model are named '{twice}': give each its own name, or use one module twice", nameof(model));
        }

        parameters = [.. named.Select(static entry => entry.Parameter)];
        values = [.. parameters.Select(static parameter => new ParameterMemory(BorrowedTensor.Address(parameter), parameter.numel()))];
        if (parameters.Length + embeddings.Length == 0) throw new ArgumentException("the model has no parameter that requires a gradient", nameof(model));
        ParameterSpec[] specs = [.. named.Select(static entry => new ParameterSpec(entry.Name, entry.Parameter.numel()))];
        TableSpec[] tables = [.. embeddings.Select(embedding => new TableSpec(embedding.Spec.Name, embedding.Spec.Rows, embedding.Spec.Dimension, embedding.Spec.InitialDeviation, Settings.Seed))];
        client = ParameterServerClient.Open(coordinator, options.Secret, specs, tables, Settings.Servers, timeout);
        foreach ((int index, RemoteEmbedding embedding) in embeddings.Index()) embedding.Bind(client, index);
        ResumedFrom = Settings.Restore ? client.StartVersion : null;
        client.Initialize(values);
        clock = client.StartClock;
        client.Pull(clock, values);
        FixedState.Share(model, coordinator, Settings);

        // Workers that do not wait for one another begin together: whoever started first would otherwise train alone.
        if (!Synchronous && !Settings.Elastic) Sum([0]);
    }

    /// <inheritdoc/>
    /// <remarks>An elastic job's workers take chunks of the epoch from the coordinator's queue, each counted once.</remarks>
    protected internal override IEnumerable<SampleRange> Samples(DistributedSampler sampler)
    {
        ArgumentNullException.ThrowIfNull(sampler);
        BeginFit();
        if (!Settings.Elastic)
        {
            foreach (SampleRange range in base.Samples(sampler)) yield return range;
            yield break;
        }

        int size = Math.Max(1, sampler.GlobalBatchSize(0) / Settings.Workers);
        int chunks = (sampler.Order.Length + size - 1) / size;

        // Every fit has epochs of its own: chunks of an earlier one are done with.
        int epoch = ((fits - 1) * MostEpochs) + sampler.Epoch;
        pushed = null;
        try
        {
            while (true)
            {
                long start = Stopwatch.GetTimestamp();
                int? chunk = coordinator.TakeWorkAsync(epoch, chunks, pushed?.Chunk).GetAwaiter().GetResult();
                CommunicationTime += Stopwatch.GetElapsedTime(start);
                pushed = null;
                if (chunk is not { } taken) break;
                work = (epoch, taken);
                int first = taken * size, count = Math.Min(size, sampler.Order.Length - first);
                yield return new SampleRange(first, count, count);
            }
        }
        finally
        {
            // The fit ended within the epoch: others must not wait for this chunk. One that was not pushed is given to them.
            work = null;
            if (pushed is { } done) coordinator.CompleteWorkAsync(epoch, chunks, done.Chunk).GetAwaiter().GetResult();
        }
    }

    /// <inheritdoc/>
    protected internal override StepOutcome ComputeGradients(StepBatch batch)
    {
        ArgumentNullException.ThrowIfNull(batch);
        BeginFit();
        if (batch.Optimizer is { } optimizer) Check(optimizer);

        // A synchronous server adds the workers' parts of the mean up; otherwise each worker's mean is an update.
        double scale = Synchronous || batch.LocalSize == 0 ? 1 : (double)batch.GlobalSize / batch.LocalSize;
        float loss = batch.RunBackward(scale, static (loss, _) => loss.backward());

        // Where every worker tells its own loss, one without samples has none in this step.
        if (!Synchronous) lastLoss = loss = batch.LocalSize == 0 ? lastLoss : loss;
        Tensor?[] gradients = [.. parameters.Select(Gradient)];
        try
        {
            return Exchange([.. gradients.Zip(values, Memory)], batch.LearningRate, new StepOutcome(loss, batch.StopRequested));
        }
        finally
        {
            foreach (Tensor? gradient in gradients) gradient?.Dispose();
        }

        static Tensor? Gradient(Parameter parameter)
        {
            Tensor? gradient = parameter.grad;
            if (gradient is null || gradient.is_contiguous()) return gradient;
            using (gradient) return gradient.contiguous();
        }

        static ParameterMemory Memory(Tensor? gradient, ParameterMemory parameter) => gradient is null
            ? new ParameterMemory(0, parameter.Length)
            : new ParameterMemory(BorrowedTensor.Address(gradient), parameter.Length);
    }

    /// <summary>Pushes one step's gradients, and pulls the parameters into the model.</summary>
    internal StepOutcome Exchange(IReadOnlyList<ParameterMemory> gradients, double learningRate, StepOutcome own)
    {
        var push = new StepPush
        {
            Clock = clock++,
            LearningRate = learningRate,
            Loss = own.Loss,
            Stop = own.Stop,
            Work = work,
            Gradients = gradients,
            Rows = [.. embeddings.SelectMany(static embedding => embedding.TakeGradients())],
        };
        long start = Stopwatch.GetTimestamp();
        PullAnswer answer = client!.PushPull(push, values);
        CommunicationTime += Stopwatch.GetElapsedTime(start);
        pushed = work;
        StepOutcome outcome = Synchronous ? new StepOutcome((float)answer.Loss, answer.Stop) : own;
        failed |= outcome.Stop;
        return outcome;
    }

    /// <summary>Takes part in the steps that come: until <see cref="Complete"/>, this worker has not done what it is there for.</summary>
    internal void BeginFit()
    {
        if (fitting) return;
        fitting = true;
        if (fits++ == 0) return;

        // The servers wait for nobody who has completed a fit; now they have to again, before anybody's first push.
        client!.Return(clock);
        coordinator.SumAsync($"begin-{sums++}", new double[] { 1 }).GetAwaiter().GetResult();
    }

    /// <summary>Refuses an optimizer of the trainer that is not the job's.</summary>
    internal void Check(optim.Optimizer optimizer)
    {
        try
        {
            if (!ReferenceEquals(optimizer, accepted)) JobOptimizer.Check(optimizer, Settings.Optimizer, named);
            JobOptimizer.LearningRate(optimizer);
            accepted = optimizer;
        }
        catch (InvalidOperationException error)
        {
            coordinator.FailAsync(error.Message).GetAwaiter().GetResult();
            throw;
        }
    }

    /// <inheritdoc/>
    protected internal override double ClipGradients(IReadOnlyList<Parameter> parameters, double maxNorm) =>
        throw new NotSupportedException("gradients are pushed to the servers as they are computed, so Trainer.MaxGradientNorm cannot be used with parameter servers");

    /// <summary>Nothing: the servers have done it.</summary>
    protected internal override void UpdateParameters(optim.Optimizer optimizer) { }

    /// <summary>Waits until all workers have pushed their last gradients, and pulls the final parameters.</summary>
    protected internal override void Complete()
    {
        long start = Stopwatch.GetTimestamp();
        client!.Leave();
        SumResult everyone = coordinator.SumAsync($"complete-{sums++}", new double[] { 1 }).GetAwaiter().GetResult();
        client.Pull(-1, values);
        CommunicationTime += Stopwatch.GetElapsedTime(start);
        Place(everyone.Workers);
        fitting = false;
    }

    /// <inheritdoc/>
    protected internal override void SynchronizeBuffers()
    {
        using DisposeScope scope = NewDisposeScope();
        using var noGradient = no_grad();
        Tensor[] buffers = [.. model!.buffers().Where(static buffer => buffer.is_floating_point())];
        if (buffers.Length == 0) return;
        double[] means = cat(buffers.Select(static buffer => buffer.reshape(-1).to(ScalarType.Float64)).ToArray()).cpu().data<double>().ToArray();
        Sum(means);
        Tensor sum = tensor(means).div(WorldSize);
        long offset = 0;
        foreach (Tensor buffer in buffers)
        {
            buffer.copy_(sum.narrow(0, offset, buffer.numel()).reshape(buffer.shape));
            offset += buffer.numel();
        }
    }

    /// <inheritdoc/>
    protected internal override void Sum(Span<double> values)
    {
        double[] own = values.ToArray();
        SumResult result = Guard(() => coordinator.SumAsync($"sum-{sums++}", own).GetAwaiter().GetResult());
        if (Settings.Elastic) Place(result.Workers);
        else if (result.Workers.Count < worldSize) throw Missing(result.Workers);
        for (int i = 0; i < values.Length; i++) values[i] = result.Sums[i];
    }

    /// <summary>Leaves the job, as <see cref="DisposeAsync"/> does. Waits for at most 5 s until the coordinator knows.</summary>
    protected override void Dispose(bool disposing)
    {
        if (disposing) EndAsync().GetAwaiter().GetResult();
        base.Dispose(disposing);
    }

    /// <summary>
    /// Leaves the job: this worker has finished well, unless a fit or another call failed or was cancelled; then it counts as lost.
    /// Waits for at most 5 s until the coordinator knows.
    /// </summary>
    public async ValueTask DisposeAsync()
    {
        await EndAsync().ConfigureAwait(false);
        Dispose();
    }

    private async Task EndAsync()
    {
        if (disposed) return;
        disposed = true;
        client?.Dispose();
        if (!failed && !fitting) await coordinator.LeaveAsync().ConfigureAwait(false);
        await coordinator.DisposeAsync().ConfigureAwait(false);
    }

    private void Place(IReadOnlyList<int> workers)
    {
        worldSize = workers.Count;
        rank = workers.Index().First(worker => worker.Item == coordinator.Id).Index;
    }

    private ParameterServerException Missing(IReadOnlyList<int> present)
    {
        failed = true;
        string missing = string.Join(", ", Enumerable.Range(0, worldSize).Except(present));
        return new ParameterServerException(
            $"worker(s) {missing} had left the job when worker {coordinator.Id} asked for a sum over all: "
            + "every worker has to make the same calls");
    }

    // Whatever its program makes of the error: a worker of which a call failed has not finished well.
    private T Guard<T>(Func<T> call)
    {
        try
        {
            return call();
        }
        catch
        {
            failed = true;
            throw;
        }
    }

    private void Guard(Action call) => Guard(() =>
    {
        call();
        return true;
    });
}

using System.Diagnostics;
using System.Runtime.CompilerServices;
using Skein.Collectives;
using Skein.Training.Data;
using Skein.Training.Gradients;
using Skein.Training.Optimizers;
using Skein.Training.ParameterServers;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training;

/// <summary>
/// Trains a module. The same program trains in one process or on many ranks: only <see cref="Strategy"/> changes.
/// Each call runs on one thread of its own from start to end, because TorchSharp's dispose scopes belong to a thread;
/// one call at a time.
/// </summary>
public sealed class Trainer
{
    private readonly nn.Module<Tensor, Tensor> model;
    private readonly Func<IReadOnlyList<Parameter>, optim.Optimizer>? createOptimizer;
    private readonly Objective objective;
    private readonly HashSet<Parameter> offered = new(ModelParameters.Identity);
    private IReadOnlyList<Parameter> optimized = [];
    private IReadOnlyList<Parameter> withGradients = [];
    private IReadOnlyList<BackwardFailure> failures = [];
    private TrainingPlace? place;

    /// <summary>A trainer of <paramref name="model"/>; it owns none of its arguments.</summary>
    /// <param name="model">The module; its parameters say on which device training runs.</param>
    /// <param name="optimizer">An optimizer over the model's parameters. One that layers share is updated once a step.</param>
    /// <param name="loss">Maps outputs and labels to the mean loss over the batch's samples.</param>
    public Trainer(nn.Module<Tensor, Tensor> model, optim.Optimizer optimizer, Func<Tensor, Tensor, Tensor> loss)
        : this(model, Checked(optimizer), null, new Objective(Checked(loss), null)) { }

    /// <inheritdoc cref="Trainer(nn.Module{Tensor, Tensor}, optim.Optimizer, Func{Tensor, Tensor, Tensor})"/>
    /// <param name="model">The module; its parameters say on which device training runs.</param>
    /// <param name="optimizer">An optimizer over the model's parameters.</param>
    /// <param name="loss">Maps outputs and labels to a sum and its weight; the mean over the whole batch is made small.</param>
    public Trainer(nn.Module<Tensor, Tensor> model, optim.Optimizer optimizer, Func<Tensor, Tensor, LossSum> loss)
        : this(model, Checked(optimizer), null, new Objective(null, Checked(loss))) { }

    /// <inheritdoc cref="Trainer(nn.Module{Tensor, Tensor}, optim.Optimizer, Func{Tensor, Tensor, Tensor})"/>
    /// <exception cref="ArgumentException">The loss has parameters of its own that require a gradient; names one.</exception>
    public Trainer(nn.Module<Tensor, Tensor> model, optim.Optimizer optimizer, nn.Module<Tensor, Tensor, Tensor> loss)
        : this(model, optimizer, FunctionOf(loss)) { }

    /// <summary>
    /// A trainer that makes its optimizer when the strategy has said which parameters this rank updates: for strategies that
    /// divide them among the ranks, and for models in half precision, whose optimizer works on copies in single precision.
    /// </summary>
    /// <param name="model">The module; its parameters say on which device training runs.</param>
    /// <param name="createOptimizer">
    /// Makes the optimizer over the given parameters; called once, in the first fit. What is unfrozen before a later one comes into its first group.
    /// </param>
    /// <param name="loss">Maps outputs and labels to the mean loss over the batch's samples.</param>
    public Trainer(nn.Module<Tensor, Tensor> model, Func<IReadOnlyList<Parameter>, optim.Optimizer> createOptimizer, Func<Tensor, Tensor, Tensor> loss)
        : this(model, null, Checked(createOptimizer), new Objective(Checked(loss), null)) { }

    /// <inheritdoc cref="Trainer(nn.Module{Tensor, Tensor}, Func{IReadOnlyList{Parameter}, optim.Optimizer}, Func{Tensor, Tensor, Tensor})"/>
    /// <param name="model">The module; its parameters say on which device training runs.</param>
    /// <param name="createOptimizer">Makes the optimizer over the given parameters; called once, in the first fit.</param>
    /// <param name="loss">Maps outputs and labels to a sum and its weight; the mean over the whole batch is made small.</param>
    public Trainer(nn.Module<Tensor, Tensor> model, Func<IReadOnlyList<Parameter>, optim.Optimizer> createOptimizer, Func<Tensor, Tensor, LossSum> loss)
        : this(model, null, Checked(createOptimizer), new Objective(null, Checked(loss))) { }

    private Trainer(nn.Module<Tensor, Tensor> model, optim.Optimizer? optimizer, Func<IReadOnlyList<Parameter>, optim.Optimizer>? createOptimizer, Objective objective)
    {
        ArgumentNullException.ThrowIfNull(model);
        this.model = model;
        Optimizer = optimizer;
        this.createOptimizer = createOptimizer;
        this.objective = objective;
    }

    /// <summary>The optimizer, the caller's to dispose; null before the first fit where the trainer makes it.</summary>
    public optim.Optimizer? Optimizer { get; private set; }

    /// <summary>How ranks share the work. Default: one process.</summary>
    public Strategy Strategy { get; init; } = new SingleProcess();

    /// <summary>Samples per optimizer step, over all ranks, 1 or more. Default 64.</summary>
    public int BatchSize { get; init; } = 64;

    /// <summary>Into how many micro-batches each rank splits its share of a step, to save memory, 1 or more. The result is the same.</summary>
    public int GradientAccumulation { get; init; } = 1;

    /// <summary>The largest norm that the gradient of the whole model may have; larger ones are scaled down. Null: not clipped.</summary>
    public double? MaxGradientNorm { get; init; }

    /// <summary>The most optimizer steps in one fit, 1 or more. Null: as many as the epochs have.</summary>
    public long? MaxSteps { get; init; }

    /// <summary>
    /// The optimizer steps that the model has behind it when its first fit begins, from 0: a run that was stopped goes on with the samples,
    /// the learning rate and the epoch that would have come next. What the optimizer and the model have learned, its caller restores.
    /// </summary>
    public long StartStep { get; init; }

    /// <summary>Seeds the order of the samples; the same on every rank.</summary>
    public long Seed { get; init; }

    /// <summary>How the data are divided into shares that each rank keeps. Null: every rank takes a part of each global batch of the whole.</summary>
    public DataPartition? Partition { get; init; }

    /// <summary>
    /// The learning rate of each step, counted from 0 over all fits of this trainer; set before the step in every parameter group. Null: left alone.
    /// </summary>
    public Func<long, double>? LearningRate { get; init; }

    /// <summary>A TorchSharp schedule, advanced after every optimizer step by that step's loss.</summary>
    public optim.lr_scheduler.LRScheduler? Scheduler { get; init; }

    /// <summary>A TorchSharp schedule, advanced after every epoch by its mean loss, where ranks train by themselves that of this rank.</summary>
    public optim.lr_scheduler.LRScheduler? EpochScheduler { get; init; }

    /// <summary>Makes each step's computation last this many times as long, 1 or more: a slow machine, for experiments. Default 1.</summary>
    public double Slowdown { get; init; } = 1;

    /// <summary>Called on the training thread after every optimizer step.</summary>
    public Action<StepInfo>? StepCompleted { get; init; }

    /// <summary>
    /// Trains for <paramref name="epochs"/> passes over <paramref name="trainingData"/>, or until <see cref="MaxSteps"/>.
    /// Every rank calls it with the same data. A later fit goes on where the last one has ended: with the next epoch's order of samples,
    /// or with the rest of an epoch that was cut short, and with the next step of <see cref="LearningRate"/>. Modules that are in evaluation
    /// mode stay in it, unless the whole model is; afterwards all have the mode that they had. The model's parameters and buffers are then
    /// the same on all ranks.
    /// </summary>
    /// <exception cref="TrainingCanceledException">
    /// Some rank's token was cancelled: all ranks end after the same step, with equal parameters.
    /// </exception>
    /// <exception cref="InvalidOperationException">No parameter of the model requires a gradient, or the optimizer has one that is not the model's.</exception>
    public Task<TrainingReport> FitAsync(InMemoryDataset trainingData, int epochs = 1, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(trainingData);
        ArgumentOutOfRangeException.ThrowIfLessThan(epochs, 1);
        ArgumentOutOfRangeException.ThrowIfNegative(StartStep);
        return TrainingThread.Run($"skein-train-{Strategy.Rank}", () => Fit(trainingData, epochs, cancellationToken));
    }

    /// <summary>Measures the model on <paramref name="data"/>, split over the ranks; every rank calls it and gets the same report.</summary>
    public Task<EvaluationReport> EvaluateAsync(InMemoryDataset data, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(data);
        return TrainingThread.Run($"skein-evaluate-{Strategy.Rank}", () => Evaluate(data, cancellationToken));
    }

    // A model's parameters may all be elsewhere.
    private Parameter? Any => model.parameters().FirstOrDefault();

    // A model in half precision takes features of its own type.
    private Func<Tensor, Tensor> Input()
    {
        ScalarType type = Any?.dtype ?? ScalarType.Float32;
        bool isHalf = type is ScalarType.BFloat16 or ScalarType.Float16;
        return features => isHalf && features.is_floating_point() ? features.to(type) : features;
    }

    private optim.Optimizer PrepareOptimizer()
    {
        if (createOptimizer is null && Strategy.DividesParameters)
        {
            throw new InvalidOperationException(
                $"{Strategy.GetType().Name} divides the parameters among the ranks, so that an optimizer over the model's own is over the wrong ones: " +
                "give the Trainer a function that makes it, as in new Trainer(model, parameters => optim.AdamW(parameters), loss)");
        }

        Parameter[] trained = ModelParameters.Trainable(model);
        if (trained.Length == 0 && !model.modules().OfType<RemoteEmbedding>().Any())
        {
            throw new InvalidOperationException("the model has no parameter that requires a gradient, so that there is nothing to train");
        }

        IReadOnlyList<Parameter> now = createOptimizer is null ? trained : Strategy.OptimizedParameters(model);
        if (Optimizer is null) Optimizer = createOptimizer!(now);
        else if (createOptimizer is not null) OptimizerParameters.Add(Optimizer, [.. now.Where(parameter => !offered.Contains(parameter))]);
        optimized = now;
        offered.UnionWith(createOptimizer is null ? model.parameters() : now);
        IReadOnlySet<Parameter> updated = OptimizerParameters.Distinct(Optimizer);
        if (updated.FirstOrDefault(parameter => !offered.Contains(parameter)) is { } foreign)
        {
            throw new InvalidOperationException(
                $"the optimizer has a parameter [{string.Join(", ", foreign.shape)}] that is none of those that the strategy trains: " +
                "give it the model's, and put parameters of the loss into the model");
        }

        // Of one that was frozen since the last fit an old gradient would be applied in every step.
        foreach (Parameter parameter in updated.Concat(model.parameters())) parameter.grad = null;
        withGradients = [.. trained.Concat(now).Distinct(ModelParameters.Identity).Cast<Parameter>()];
        return Optimizer;
    }

    private TrainingReport Fit(InMemoryDataset data, int epochs, CancellationToken cancellationToken)
    {
        if (objective.Sum is not null && !Strategy.TakesLossSums)
        {
            throw new NotSupportedException($"{Strategy.GetType().Name} takes no loss that is a {nameof(LossSum)}: give the mean over samples");
        }

        Strategy.Attach(model);
        TrainingAgreement.Check(
            Strategy, data, ("the seed", Seed), ("the batch size", BatchSize),
            ("the number of epochs", epochs), ("the most steps", MaxSteps), ("the partition", Partition));
        // Other ranks' parts lie between this one's, so that what comes next does not fit where they were.
        if (Strategy.DividesParameters) NativePages.TrimHeap();
        using var modes = TrainingModes.Train(model);
        optim.Optimizer optimizer = PrepareOptimizer();
        failures = BackwardFailure.Of(model);
        var sampler = new DistributedSampler(data.Count, BatchSize, Strategy.Rank, Strategy.WorldSize, Seed);
        OwnShare? share = Partition is null ? null : new OwnShare(Partition, data, Strategy.Rank, Strategy.WorldSize, Seed);
        var history = new LossHistory(TrainingReport.LossHistoryLimit);
        var batch = new StepBatch(model.call, Input(), objective.On(Strategy), data, Any?.device ?? CPU, GradientAccumulation)
        {
            Slowdown = Slowdown,
            Optimizer = optimizer,
        };
        place ??= Begin(sampler.BatchesPerEpoch);
        place.Fit(sampler.BatchesPerEpoch);
        // A fit that begins within an epoch ends within one, after as many samples. Others go to the end of their last epoch, of which a rank
        // may take more or fewer batches than one of the sampler's ranks.
        bool cut = place.Batch > 0;
        long limit = Math.Min(MaxSteps ?? long.MaxValue, cut ? (long)epochs * sampler.BatchesPerEpoch : long.MaxValue);
        long steps = Strategy.FirstStep, samples = 0;
        place.Advance(steps, sampler.BatchesPerEpoch);
        AdvanceSchedule(steps);
        double epochLoss = 0, epochWeight = 0, trainLoss = double.NaN;
        int passes = (int)(steps / sampler.BatchesPerEpoch);
        bool stopped = false;
        TimeSpan communicationAtStart = Strategy.CommunicationTime;
        using var collection = new CollectionPoint();
        long start = Stopwatch.GetTimestamp();

        while (!stopped && steps < limit && (cut || passes < epochs))
        {
            sampler.SetEpoch(place.Epoch);
            using Tensor order = tensor(share?.Arrange(sampler) ?? sampler.Order.ToArray());
            (epochLoss, epochWeight) = (0, 0);
            bool whole = true;
            foreach (SampleRange range in Strategy.Samples(sampler).Skip(place.Batch))
            {
                batch.MoveTo(order, (range.Start, range.Count), range.GlobalBatchSize);
                batch.StopRequested = cancellationToken.IsCancellationRequested;
                (float stepLoss, stopped, float weight) = Step(optimizer, batch, steps++);
                history.Add(stepLoss);
                epochLoss += (double)stepLoss * weight * batch.GlobalSize;
                epochWeight += weight * batch.GlobalSize;
                samples += batch.GlobalSize;
                place.Advance();
                collection.Pass();
                whole = place.Batch == sampler.BatchesPerEpoch;
                if (stopped || steps == limit) break;
                whole = true;
            }

            // A worker that the last epoch left nothing for tells the loss of the one before.
            if (epochWeight > 0) trainLoss = epochLoss / epochWeight;
            if (!whole) break;
            passes++;
            place.NextEpoch();
            EpochScheduler?.step(epochWeight > 0 ? epochLoss / epochWeight : trainLoss);
        }

        Strategy.Complete();
        Strategy.SynchronizeBuffers();
        TimeSpan wall = Stopwatch.GetElapsedTime(start);
        TimeSpan communication = Strategy.CommunicationTime - communicationAtStart;
        var report = new TrainingReport
        {
            Steps = steps,
            Epochs = passes,
            Samples = samples,
            TrainLoss = trainLoss,
            LossHistory = history.ToArray(),
            WallTime = wall,
            ComputeTime = wall - communication,
            CommunicationTime = communication,
        };
        return stopped ? throw new TrainingCanceledException($"training was cancelled after step {steps}", report, cancellationToken) : report;
    }

    private TrainingPlace Begin(int batchesPerEpoch)
    {
        var beginning = new TrainingPlace();
        beginning.Advance(StartStep, batchesPerEpoch);
        AdvanceSchedule(StartStep);
        return beginning;
    }

    private void AdvanceSchedule(long steps)
    {
        if (Scheduler is optim.lr_scheduler.impl.ReduceLROnPlateau) return;
        for (long step = 0; step < steps; step++) Scheduler?.step();
    }

    private StepOutcome Step(optim.Optimizer optimizer, StepBatch batch, long step)
    {
        long start = Stopwatch.GetTimestamp();
        TimeSpan communicationBefore = Strategy.CommunicationTime;
        if (LearningRate is not null)
        {
            double rate = LearningRate(place!.Steps);
            foreach (optim.ILearningRateController group in optimizer.ParamGroups) group.LearningRate = rate;
        }

        batch.LearningRate = optimizer.ParamGroups.First().LearningRate;

        // Dropped rather than zeroed: the backward pass then hands its fresh gradients over instead of adding to zeros.
        foreach (Parameter parameter in withGradients) parameter.grad = null;
        StepOutcome outcome = Strategy.ComputeGradients(batch);
        foreach (BackwardFailure failure in failures) failure.ThrowIfAny();
        outcome = objective.Sum is null ? outcome with { Weight = 1 } : DivideByWeight(outcome);
        double? norm = MaxGradientNorm is { } limit ? Strategy.ClipGradients(optimized, limit) : null;
        Strategy.UpdateParameters(optimizer);

        if (StepCompleted is not null)
        {
            TimeSpan communication = Strategy.CommunicationTime - communicationBefore;
            StepCompleted(new StepInfo(
                step + 1, place!.Epoch, outcome.Loss, batch.GlobalSize, optimizer.ParamGroups.First().LearningRate, norm,
                Stopwatch.GetElapsedTime(start) - communication, communication));
        }

        Scheduler?.step(outcome.Loss);
        return outcome;
    }

    // What the ranks have agreed on so far is the sum divided by the number of samples.
    private StepOutcome DivideByWeight(StepOutcome sum)
    {
        using var noGradient = no_grad();
        foreach (Parameter parameter in optimized)
        {
            using Tensor? gradient = parameter.grad;
            if (sum.Weight > 0) gradient?.mul_(1 / (double)sum.Weight);
            else parameter.grad = null;
        }

        return sum with { Loss = sum.Weight > 0 ? sum.Loss / sum.Weight : 0 };
    }

    private EvaluationReport Evaluate(InMemoryDataset data, CancellationToken cancellationToken)
    {
        Strategy.Attach(model);
        TrainingAgreement.Check(Strategy, data, ("the batch size", BatchSize));
        Strategy.SynchronizeBuffers();
        using var modes = TrainingModes.Evaluate(model);
        using var noGradient = no_grad();
        var sampler = new DistributedSampler(data.Count, BatchSize, Strategy.Rank, Strategy.WorldSize, shuffle: false);
        using Tensor order = tensor(sampler.Order.ToArray());
        (Func<Tensor, Tensor> input, Device device, Objective measure) = (Input(), Any?.device ?? CPU, objective.On(Strategy));
        double loss = 0, weight = 0, correct = 0, labelled = 0, seen = 0;
        using var collection = new CollectionPoint();
        bool classes = data.Labels.dtype == ScalarType.Int64 && data.Labels.dim() == 1;
        for (int i = 0; i < sampler.BatchesPerEpoch; i++)
        {
            // Where a forward pass needs other ranks, they would wait for this one.
            if (cancellationToken.IsCancellationRequested && !Strategy.ForwardIsCollective) break;
            (int start, int count) = sampler.LocalSlice(i);
            if (count == 0 && !Strategy.ForwardIsCollective) continue;
            using DisposeScope scope = NewDisposeScope();
            (Tensor features, Tensor labels) = data.Gather(order.narrow(0, count == 0 ? 0 : start, Math.Max(count, 1)), device);
            if (Strategy.Predict(model, input(features)) is not { } output || count == 0) continue;
            (double sum, double its) = measure.Measure(output, labels, count);
            loss += sum;
            weight += its;
            classes &= output.dim() == 2;
            if (classes)
            {
                // A label below 0 is no class: it marks what is not to count.
                correct += output.argmax(1).eq(labels).sum().ToInt64();
                labelled += labels.ge(0).sum().ToInt64();
            }

            seen += count;
            collection.Pass();
        }

        // A rank that was cancelled says so here, or the others would wait for it.
        Span<double> sums = [loss, weight, correct, labelled, seen, classes ? 0 : 1, cancellationToken.IsCancellationRequested ? 1 : 0];
        Strategy.Sum(sums);
        if (sums[6] > 0) throw new OperationCanceledException("the evaluation was cancelled", cancellationToken);
        if (sums[4] < data.Count)
        {
            throw new InvalidOperationException(
                $"the evaluation covers {(long)sums[4]} of {data.Count} samples, as another rank was lost or left meanwhile: evaluate again");
        }

        return new EvaluationReport(sums[0] / sums[1], sums[5] == 0 ? sums[2] / sums[3] : null, (long)sums[4]);
    }

    private static Func<Tensor, Tensor, Tensor> FunctionOf(nn.Module<Tensor, Tensor, Tensor> loss)
    {
        ArgumentNullException.ThrowIfNull(loss);
        string? trained = loss.named_parameters().Where(static entry => entry.parameter.requires_grad).Select(static entry => entry.name).FirstOrDefault();
        return trained is null
            ? loss.call
            : throw new ArgumentException(
                $"the loss has the parameter '{trained}' of its own, which no strategy would train: " +
                "make it one of the model's, for example of a module that the model's forward ends with, or freeze it",
                nameof(loss));
    }

    private static T Checked<T>(T argument, [CallerArgumentExpression(nameof(argument))] string? name = null) where T : class =>
        argument ?? throw new ArgumentNullException(name);
}

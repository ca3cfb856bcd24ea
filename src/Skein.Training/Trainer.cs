using System.Diagnostics;
using Skein.Collectives;
using Skein.Training.Data;
using Skein.Training.Gradients;
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
    private readonly Func<Tensor, Tensor, Tensor> loss;
    private readonly Parameter[] parameters;
    private IReadOnlyList<Parameter> optimized = [];
    private BackwardFailure? recomputation;

    /// <summary>A trainer of <paramref name="model"/>; it owns none of its arguments.</summary>
    /// <param name="model">The module; its parameters say on which device training runs.</param>
    /// <param name="optimizer">An optimizer over the model's parameters.</param>
    /// <param name="loss">Maps outputs and labels to the mean loss over the batch.</param>
    public Trainer(nn.Module<Tensor, Tensor> model, optim.Optimizer optimizer, Func<Tensor, Tensor, Tensor> loss)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(optimizer);
        ArgumentNullException.ThrowIfNull(loss);
        this.model = model;
        Optimizer = optimizer;
        this.loss = loss;
        parameters = [.. model.parameters().Where(static parameter => parameter.requires_grad)];
    }

    /// <inheritdoc cref="Trainer(nn.Module{Tensor, Tensor}, optim.Optimizer, Func{Tensor, Tensor, Tensor})"/>
    public Trainer(nn.Module<Tensor, Tensor> model, optim.Optimizer optimizer, nn.Module<Tensor, Tensor, Tensor> loss)
        : this(model, optimizer, (loss ?? throw new ArgumentNullException(nameof(loss))).call) { }

    /// <summary>
    /// A trainer that makes its optimizer when the strategy has said which parameters this rank updates: for strategies that
    /// divide them among the ranks, and for models in half precision, whose optimizer works on copies in single precision.
    /// </summary>
    /// <param name="model">The module; its parameters say on which device training runs.</param>
    /// <param name="createOptimizer">Makes the optimizer over the given parameters; called once, in the first fit.</param>
    /// <param name="loss">Maps outputs and labels to the mean loss over the batch.</param>
    public Trainer(nn.Module<Tensor, Tensor> model, Func<IReadOnlyList<Parameter>, optim.Optimizer> createOptimizer, Func<Tensor, Tensor, Tensor> loss)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(createOptimizer);
        ArgumentNullException.ThrowIfNull(loss);
        this.model = model;
        this.createOptimizer = createOptimizer;
        this.loss = loss;
        parameters = [.. model.parameters().Where(static parameter => parameter.requires_grad)];
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

    /// <summary>The most optimizer steps in one fit. Null: as many as the epochs have.</summary>
    public long? MaxSteps { get; init; }

    /// <summary>Seeds the order of the samples; the same on every rank.</summary>
    public long Seed { get; init; }

    /// <summary>How the data are divided into shares that each rank keeps. Null: every rank takes a part of each global batch of the whole.</summary>
    public DataPartition? Partition { get; init; }

    /// <summary>The learning rate of each step, counted from 0; set before the step in every parameter group. Null: left alone.</summary>
    public Func<long, double>? LearningRate { get; init; }

    /// <summary>A TorchSharp schedule, advanced after every optimizer step.</summary>
    public optim.lr_scheduler.LRScheduler? Scheduler { get; init; }

    /// <summary>Makes each step's computation last this many times as long, 1 or more: a slow machine, for experiments. Default 1.</summary>
    public double Slowdown { get; init; } = 1;

    /// <summary>Called on the training thread after every optimizer step.</summary>
    public Action<StepInfo>? StepCompleted { get; init; }

    /// <summary>
    /// Trains for <paramref name="epochs"/> passes over <paramref name="trainingData"/>, or until <see cref="MaxSteps"/>.
    /// Every rank calls it with the same data.
    /// </summary>
    /// <exception cref="OperationCanceledException">
    /// Some rank's token was cancelled: all ranks end after the same step, with equal parameters.
    /// </exception>
    public Task<TrainingReport> FitAsync(InMemoryDataset trainingData, int epochs = 1, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(trainingData);
        ArgumentOutOfRangeException.ThrowIfLessThan(epochs, 1);
        return TrainingThread.Run($"skein-train-{Strategy.Rank}", () => Fit(trainingData, epochs, cancellationToken));
    }

    /// <summary>Measures the model on <paramref name="data"/>, split over the ranks; every rank calls it and gets the same report.</summary>
    public Task<EvaluationReport> EvaluateAsync(InMemoryDataset data, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(data);
        return TrainingThread.Run($"skein-evaluate-{Strategy.Rank}", () => Evaluate(data, cancellationToken));
    }

    // A model's parameters may all be elsewhere.
    private Device Device => parameters.Length > 0 ? parameters[0].device : CPU;

    // A model in half precision takes features of its own type, and its loss is computed in single precision.
    private Tensor Input(Tensor features) =>
        parameters.Length > 0 && parameters[0].dtype is ScalarType.BFloat16 or ScalarType.Float16 && features.is_floating_point() ? features.to(parameters[0].dtype) : features;

    private Func<Tensor, Tensor, Tensor> Loss()
    {
        Func<Tensor, Tensor, Tensor> chosen = Strategy.LossOf(loss);
        return (output, labels) => chosen(output.dtype is ScalarType.BFloat16 or ScalarType.Float16 ? output.to(float32) : output, labels);
    }

    private optim.Optimizer PrepareOptimizer()
    {
        if (createOptimizer is null && Strategy.DividesParameters)
        {
            throw new InvalidOperationException(
                $"{Strategy.GetType().Name} divides the parameters among the ranks, so that an optimizer over the model's own is over the wrong ones: " +
                "give the Trainer a function that makes it, as in new Trainer(model, parameters => optim.AdamW(parameters), loss)");
        }

        if (optimized.Count == 0) optimized = createOptimizer is null ? parameters : Strategy.OptimizedParameters(model);
        Optimizer ??= createOptimizer!(optimized);
        MaterializeParameterGroups(Optimizer);
        return Optimizer;
    }

    private TrainingReport Fit(InMemoryDataset data, int epochs, CancellationToken cancellationToken)
    {
        Strategy.Attach(model);
        // Other ranks' parts lie between this one's, so that what comes next does not fit where they were.
        if (Strategy.DividesParameters) NativePages.TrimHeap();
        model.train();
        optim.Optimizer optimizer = PrepareOptimizer();
        recomputation = ActivationCheckpointing.FailureOf(model);
        var sampler = new DistributedSampler(data.Count, BatchSize, Strategy.Rank, Strategy.WorldSize, Seed);
        OwnShare? share = Partition is null ? null : new OwnShare(Partition, data, Strategy.Rank, Strategy.WorldSize, Seed);
        var history = new LossHistory(TrainingReport.LossHistoryLimit);
        var batch = new StepBatch(model.call, Input, Loss(), data, Device, GradientAccumulation)
        {
            Slowdown = Slowdown,
            Optimizer = optimizer,
        };
        long steps = Strategy.FirstStep, samples = 0, epochSamples = 0;
        double epochLoss = 0, trainLoss = double.NaN;
        int epoch = (int)(steps / sampler.BatchesPerEpoch), passes = epoch;
        int skipped = (int)(steps % sampler.BatchesPerEpoch);
        bool stopped = false;
        for (long step = 0; step < steps; step++) Scheduler?.step();
        TimeSpan communicationAtStart = Strategy.CommunicationTime;
        using var collection = new CollectionPoint();
        long start = Stopwatch.GetTimestamp();

        for (; epoch < epochs && !stopped && steps < (MaxSteps ?? long.MaxValue); epoch++)
        {
            sampler.SetEpoch(epoch);
            using Tensor order = tensor(share?.Arrange(sampler) ?? sampler.Order.ToArray());
            (epochLoss, epochSamples) = (0, 0);
            foreach (SampleRange range in Strategy.Samples(sampler).Skip(skipped))
            {
                batch.MoveTo(order, (range.Start, range.Count), range.GlobalBatchSize);
                batch.StopRequested = cancellationToken.IsCancellationRequested;
                (float stepLoss, stopped) = Step(optimizer, batch, steps++, epoch);
                history.Add(stepLoss);
                epochLoss += (double)stepLoss * batch.GlobalSize;
                epochSamples += batch.GlobalSize;
                samples += batch.GlobalSize;
                collection.Pass();
                if (stopped || steps == MaxSteps) break;
            }

            skipped = 0;
            // A worker that the last epoch left nothing for tells the loss of the one before.
            if (epochSamples > 0) trainLoss = epochLoss / epochSamples;
            if (epochSamples == data.Count || (!stopped && steps != MaxSteps)) passes++;
        }

        Strategy.Complete();
        if (stopped) throw new OperationCanceledException($"training was cancelled after step {steps}", cancellationToken);
        TimeSpan wall = Stopwatch.GetElapsedTime(start);
        TimeSpan communication = Strategy.CommunicationTime - communicationAtStart;
        return new TrainingReport
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
    }

    private StepOutcome Step(optim.Optimizer optimizer, StepBatch batch, long step, int epoch)
    {
        long start = Stopwatch.GetTimestamp();
        TimeSpan communicationBefore = Strategy.CommunicationTime;
        if (LearningRate is not null)
        {
            double rate = LearningRate(step);
            foreach (optim.ILearningRateController group in optimizer.ParamGroups) group.LearningRate = rate;
        }

        batch.LearningRate = optimizer.ParamGroups.First().LearningRate;

        // Dropped rather than zeroed: the backward pass then hands its fresh gradients over instead of adding to zeros.
        foreach (Parameter parameter in parameters) parameter.grad = null;
        if (!ReferenceEquals(optimized, parameters)) foreach (Parameter parameter in optimized) parameter.grad = null;
        StepOutcome outcome = Strategy.ComputeGradients(batch);
        recomputation?.ThrowIfAny();
        double? norm = MaxGradientNorm is { } limit ? Strategy.ClipGradients(optimized, limit) : null;
        Strategy.UpdateParameters(optimizer);

        if (StepCompleted is not null)
        {
            TimeSpan communication = Strategy.CommunicationTime - communicationBefore;
            StepCompleted(new StepInfo(
                step + 1, epoch, outcome.Loss, batch.GlobalSize, optimizer.ParamGroups.First().LearningRate, norm,
                Stopwatch.GetElapsedTime(start) - communication, communication));
        }

        Scheduler?.step();
        return outcome;
    }

    private EvaluationReport Evaluate(InMemoryDataset data, CancellationToken cancellationToken)
    {
        Strategy.Attach(model);
        Strategy.SynchronizeBuffers();
        bool training = model.training;
        model.eval();
        try
        {
            using var noGradient = no_grad();
            var sampler = new DistributedSampler(data.Count, BatchSize, Strategy.Rank, Strategy.WorldSize, shuffle: false);
            using Tensor order = tensor(sampler.Order.ToArray());
            double lossSum = 0, correct = 0, seen = 0;
            using var collection = new CollectionPoint();
            bool classes = data.Labels.dtype == ScalarType.Int64 && data.Labels.dim() == 1;
            Func<Tensor, Tensor, Tensor> lossOf = Loss();
            for (int i = 0; i < sampler.BatchesPerEpoch; i++)
            {
                // Where a forward pass needs other ranks, they would wait for this one.
                if (cancellationToken.IsCancellationRequested && !Strategy.ForwardIsCollective) break;
                (int start, int count) = sampler.LocalSlice(i);
                if (count == 0 && !Strategy.ForwardIsCollective) continue;
                using DisposeScope scope = NewDisposeScope();
                (Tensor features, Tensor labels) = data.Gather(order.narrow(0, count == 0 ? 0 : start, Math.Max(count, 1)), Device);
                if (Strategy.Predict(model, Input(features)) is not { } output || count == 0) continue;
                classes &= output.dim() == 2;
                lossSum += lossOf(output, labels).ToDouble() * count;
                if (classes) correct += output.argmax(1).eq(labels).sum().ToInt64();
                seen += count;
                collection.Pass();
            }

            // A rank that was cancelled says so here, or the others would wait for it.
            Span<double> sums = [lossSum, correct, seen, classes ? 0 : 1, cancellationToken.IsCancellationRequested ? 1 : 0];
            Strategy.Sum(sums);
            if (sums[4] > 0) throw new OperationCanceledException("the evaluation was cancelled", cancellationToken);
            if (sums[2] < data.Count)
            {
                throw new InvalidOperationException(
                    $"the evaluation covers {(long)sums[2]} of {data.Count} samples, as another rank was lost or left meanwhile: "
                    + "evaluate again");
            }

            return new EvaluationReport(sums[0] / sums[2], sums[3] == 0 ? sums[1] / sums[2] : null, (long)sums[2]);
        }
        finally
        {
            model.train(training);
        }
    }

    /// <summary>TorchSharp walks the module tree again for every enumeration of <c>model.parameters()</c>; a list costs nothing.</summary>
    private static void MaterializeParameterGroups(optim.Optimizer optimizer)
    {
        foreach (ParamGroup group in optimizer.ParamGroups.OfType<ParamGroup>()) group.Parameters = [.. group.Parameters];
    }
}

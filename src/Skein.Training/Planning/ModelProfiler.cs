using System.Diagnostics;
using Skein.Collectives;
using Skein.Training.Data;
using Skein.Training.Pipeline;
using Skein.Training.TensorParallelism;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.Planning;

/// <summary>
/// Measures what a model costs, layer by layer, with two sizes of micro-batches. As many processes as a host has workers do so at the same
/// time, up to its cores, since they share its memory and caches. Linux with the GNU C library. Not thread-safe.
/// </summary>
public sealed class ModelProfiler
{
    private const int Repetitions = 3;

    // Short passes are repeated more often: until the runtime has compiled their code again, and by chance less.
    private const int MostRepetitions = 300;
    private static readonly TimeSpan Repeating = TimeSpan.FromSeconds(2.5);

    // As many as it takes until what is freed is torn into pieces as much as it will be.
    private const int PassesInRow = 4;
    private static readonly TimeSpan LongestPass = TimeSpan.FromSeconds(3);

    private readonly ProcessGroup group;
    private readonly nn.Module<Tensor, Tensor> model;
    private readonly Func<Tensor, Tensor, Tensor> loss;
    private readonly InMemoryDataset data;
    private readonly (string Name, nn.Module<Tensor, Tensor> Layer)[] layers;
    private readonly TensorProbe probe;

    private ModelProfiler(
        ProcessGroup group, nn.Module<Tensor, Tensor> model, Func<Tensor, Tensor, Tensor> loss, InMemoryDataset data, (string, nn.Module<Tensor, Tensor>)[] layers, TensorProbe probe)
    {
        (this.group, this.model, this.loss, this.data) = (group, model, loss, data);
        (this.layers, this.probe) = (layers, probe);
    }

    /// <summary>Measures; every rank of <paramref name="group"/> calls it, and gets the mean over the ranks. Runs on one thread of its own.</summary>
    /// <param name="group">The processes that measure at the same time; one is enough.</param>
    /// <param name="model">In single precision on the CPU. Its parameters do not change.</param>
    /// <param name="loss">Maps outputs and labels to the mean loss.</param>
    /// <param name="data">What to take samples from.</param>
    /// <param name="createOptimizer">Makes the optimizer over copies of the parameters.</param>
    /// <param name="plan">How tensor-parallel ranks would divide the model; null: not at all.</param>
    /// <param name="largest">The most samples that a worker has at once, 2 or more; fewer are measured where a pass would take longer than three seconds.</param>
    /// <exception cref="PlatformNotSupportedException">Memory cannot be measured here.</exception>
    public static Task<ModelProfile> MeasureAsync(
        ProcessGroup group, nn.Module<Tensor, Tensor> model, Func<Tensor, Tensor, Tensor> loss, InMemoryDataset data,
        Func<IReadOnlyList<Parameter>, optim.Optimizer> createOptimizer, TensorParallelPlan? plan, int largest)
    {
        ArgumentNullException.ThrowIfNull(group);
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(loss);
        ArgumentNullException.ThrowIfNull(data);
        ArgumentNullException.ThrowIfNull(createOptimizer);
        ArgumentOutOfRangeException.ThrowIfLessThan(largest, 2);
        return TrainingThread.Run("skein-profile", () =>
        {
            (string, nn.Module<Tensor, Tensor>)[] layers = IsLayered(model) ? [.. ModuleTree.LayersOf(model)] : [("model", model)];
            using var probe = new TensorProbe(model, layers, plan);
            return new ModelProfiler(group, model, loss, data, layers, probe).Measure(createOptimizer, largest);
        });
    }

    private static bool IsLayered(nn.Module model) => model is Sequential or ILayeredModel;

    private ModelProfile Measure(Func<IReadOnlyList<Parameter>, optim.Optimizer> createOptimizer, int largest)
    {
        double loadPeak = ProcessMemory.Peak;
        using var modes = TrainingModes.Train(model);
        (int fewer, int more) = ChooseSizes(largest);
        LayerMeasurement[] small = MeasureLayers(fewer), large = MeasureLayers(more);
        LinearCost training = LinearCost.ThroughPositive(fewer, TrainingPeak(fewer), more, TrainingPeak(more));
        LinearCost evaluation = LinearCost.ThroughPositive(fewer, EvaluationPeak(fewer), more, EvaluationPeak(more));
        (double copySeconds, double optimizerSeconds, double optimizerBytes) = MeasureOptimizer(createOptimizer);
        foreach (Parameter parameter in model.parameters()) parameter.grad = null;
        long parameterBytes = ModelParameters.Of(model).Sum(static entry => entry.Bytes);
        double baseBytes = ProcessMemory.BeginPeak() - parameterBytes;

        LayerMeasurement[] averageSmall = [.. small.Select(Average)], averageLarge = [.. large.Select(Average)];
        LayerProfile[] profiles = [.. averageSmall.Zip(averageLarge, (first, second) => Fit(fewer, first, more, second))];
        double[] scalars = [optimizerSeconds, copySeconds, baseBytes, loadPeak];
        group.AllReduce(scalars.AsSpan(), ReduceOperation.Average);
        return new ModelProfile
        {
            Layers = Describe(profiles[..^1], more),
            Loss = profiles[^1] with { Name = "loss", DividedTime = probe.DividesLogits ? 1 : 0, DividedBytes = probe.DividesLogits ? 1 : 0 },
            IsLayered = IsLayered(model),
            TensorLimits = probe.Limits(),
            OptimizerSeconds = scalars[0],
            OptimizerBytes = optimizerBytes,
            CopySeconds = scalars[1],
            TrainingPeak = training,
            EvaluationPeak = evaluation,
            BaseBytes = scalars[2],
            LoadPeakBytes = scalars[3],
            Threads = get_num_threads(),
            Cores = Environment.ProcessorCount,
        };
    }

    private (int Fewer, int More) ChooseSizes(int largest)
    {
        Pass(1, watchMemory: false);
        LayerMeasurement[] one = Pass(1, watchMemory: false);
        double seconds = one.Sum(static layer => layer.Forward + layer.Backward);
        int more = Agree((int)Math.Clamp(LongestPass.TotalSeconds / seconds, 2, largest));
        return (Math.Max(1, more / 4), more);
    }

    // All ranks take rank 0's choice, because they have to measure at the same time.
    private int Agree(int choice)
    {
        Span<int> shared = [choice];
        group.Broadcast(shared);
        return shared[0];
    }

    private LayerMeasurement[] MeasureLayers(int samples)
    {
        Pass(samples, watchMemory: false);
        var passes = new List<LayerMeasurement[]>();
        long begin = Stopwatch.GetTimestamp();
        bool goesOn = true;
        while (goesOn)
        {
            group.Barrier();
            passes.Add(Pass(samples, watchMemory: false));
            bool isEnough = passes.Count >= Repetitions && (passes.Count == MostRepetitions || Stopwatch.GetElapsedTime(begin) > Repeating);
            goesOn = Agree(isEnough ? 0 : 1) > 0;
        }

        LayerMeasurement[] memory = Pass(samples, watchMemory: true);
        passes.RemoveRange(0, passes.Count / 2);
        return [.. memory.Select((layer, index) => layer with
        {
            Forward = Median(passes.Select(pass => pass[index].Forward)),
            Backward = Median(passes.Select(pass => pass[index].Backward)),
            DividedSeconds = Median(passes.Select(pass => pass[index].DividedSeconds)),
        })];
    }

    private static double Median(IEnumerable<double> values)
    {
        double[] sorted = [.. values.Order()];
        return sorted[sorted.Length / 2];
    }

    /// <summary>Runs each layer, and the loss as the last, forward and then backward, each with a graph of its own.</summary>
    private LayerMeasurement[] Pass(int samples, bool watchMemory)
    {
        foreach (Parameter parameter in model.parameters()) parameter.grad = null;
        using DisposeScope scope = NewDisposeScope();
        long begin = Stopwatch.GetTimestamp();
        (Tensor features, Tensor labels) = Batch(samples);
        double fetching = Stopwatch.GetElapsedTime(begin).TotalSeconds;
        var measured = new LayerMeasurement[layers.Length + 1];
        var graphs = new (Tensor Input, Tensor Output)[measured.Length];
        Tensor output = features;
        for (int i = 0; i < measured.Length; i++)
        {
            // As in training: what no parameter has changed yet needs no gradient.
            bool needsGradient = output.requires_grad;
            Tensor input = output.detach().requires_grad_(needsGradient);
            probe.Begin();
            (double seconds, long peak, long change) = Watch(watchMemory, () => output = i < layers.Length ? layers[i].Layer.call(input) : loss(input, labels));
            graphs[i] = (input, output);
            measured[i] = new LayerMeasurement
            {
                // Whoever has the first layer fetches what it reads.
                Forward = seconds + (i == 0 ? fetching : 0),
                ForwardPeak = peak,
                Saved = change,
                OutputBytes = output.numel() * output.ElementSize,
                DividedSeconds = probe.Seconds,
                DividedBytes = probe.Bytes,
                Collectives = [.. probe.Collectives],
            };
        }

        Tensor? gradient = null;
        for (int i = measured.Length - 1; i >= 0; i--)
        {
            (Tensor input, Tensor result) = graphs[i];
            if (!result.requires_grad) break;
            (double seconds, long peak, long change) = Watch(watchMemory, () =>
            {
                if (gradient is null) result.backward();
                else result.backward([gradient]);
                if (gradient is not null) graphs[i + 1].Input.grad = null;
                gradient?.Dispose();
            });
            gradient = input.grad;
            measured[i] = measured[i] with { Backward = seconds, BackwardPeak = peak, BackwardChange = change };
        }

        return measured;
    }

    private static (double Seconds, long Peak, long Change) Watch(bool memory, Action run)
    {
        long resident = 0, before = 0;
        if (memory)
        {
            resident = ProcessMemory.BeginPeak();
            before = ProcessMemory.InUse;
        }

        long start = Stopwatch.GetTimestamp();
        run();
        double seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
        return memory ? (seconds, ProcessMemory.Peak - resident, ProcessMemory.InUse - before) : (seconds, 0, 0);
    }

    private double TrainingPeak(int samples)
    {
        foreach (Parameter parameter in model.parameters()) parameter.grad = null;
        return PeakInRow(samples, result =>
        {
            result.backward();
            foreach (Parameter parameter in model.parameters()) parameter.grad = null;
        });
    }

    private double EvaluationPeak(int samples)
    {
        using var modes = TrainingModes.Evaluate(model);
        using var noGradient = no_grad();
        return PeakInRow(samples, static _ => { });
    }

    private double PeakInRow(int samples, Action<Tensor> follow)
    {
        long resident = ProcessMemory.BeginPeak();
        for (int pass = 0; pass < PassesInRow; pass++)
        {
            using DisposeScope scope = NewDisposeScope();
            (Tensor features, Tensor labels) = Batch(samples);
            follow(loss(model.call(features), labels));
        }

        return ProcessMemory.Peak - resident;
    }

    /// <summary>Works on copies, so that the model stays as it is.</summary>
    private (double CopySeconds, double Seconds, double Bytes) MeasureOptimizer(Func<IReadOnlyList<Parameter>, optim.Optimizer> createOptimizer)
    {
        using DisposeScope scope = NewDisposeScope();
        Parameter[] trained = ModelParameters.Trainable(model);
        Parameter[] copies = [.. trained.Select(static parameter => new Parameter(parameter.detach().clone()))];
        Tensor[] gradients = [.. copies.Select(static copy => zeros_like(copy))];
        double elements = copies.Sum(static copy => copy.numel());
        double copySeconds = Best(() =>
        {
            foreach ((Parameter copy, Tensor gradient) in copies.Zip(gradients)) gradient.copy_(copy.detach());
        });
        foreach ((Parameter copy, Tensor gradient) in copies.Zip(gradients)) copy.grad = gradient.zero_();
        long before = ProcessMemory.InUse;
        using optim.Optimizer optimizer = createOptimizer(copies);
        double seconds = Best(() => optimizer.step());
        return (copySeconds / elements / sizeof(float), seconds / elements, Math.Max(0, ProcessMemory.InUse - before) / elements);
    }

    private double Best(Action run)
    {
        run();
        double best = double.PositiveInfinity;
        for (int i = 0; i < Repetitions; i++)
        {
            group.Barrier();
            best = Math.Min(best, Watch(memory: false, run).Seconds);
        }

        return best;
    }

    private (Tensor Features, Tensor Labels) Batch(int samples)
    {
        using Tensor indices = arange(samples).remainder(data.Count).to(int64);
        return data.Gather(indices, CPU);
    }

    private LayerMeasurement Average(LayerMeasurement layer)
    {
        double[] numbers = [layer.Forward, layer.Backward, layer.DividedSeconds];
        group.AllReduce(numbers.AsSpan(), ReduceOperation.Average);
        return layer with { Forward = numbers[0], Backward = numbers[1], DividedSeconds = numbers[2] };
    }

    private static LayerProfile Fit(int fewer, LayerMeasurement small, int more, LayerMeasurement large)
    {
        return new LayerProfile
        {
            Name = "",
            Forward = LinearCost.ThroughPositive(fewer, small.Forward, more, large.Forward),
            Backward = LinearCost.ThroughPositive(fewer, small.Backward, more, large.Backward),
            Saved = LinearCost.Through(fewer, small.Saved, more, large.Saved),
            ForwardPeak = LinearCost.ThroughPositive(fewer, small.ForwardPeak, more, large.ForwardPeak),
            BackwardPeak = LinearCost.ThroughPositive(fewer, small.BackwardPeak, more, large.BackwardPeak),
            BackwardChange = LinearCost.Through(fewer, small.BackwardChange, more, large.BackwardChange),
            OutputBytes = (double)large.OutputBytes / more,
            DividedTime = large.Forward == 0 ? 0 : Math.Min(1, large.DividedSeconds / large.Forward),
            DividedBytes = large.Saved <= 0 ? 0 : Math.Min(1, (double)large.DividedBytes / large.Saved),
            Collectives = [.. large.Collectives.Select(collective => collective with { BytesPerSample = collective.BytesPerSample / more })],
        };
    }

    private LayerProfile[] Describe(LayerProfile[] profiles, int more)
    {
        double[] balance;
        using (NewDisposeScope()) balance = IsLayered(model) ? LayerCosts.Estimate([.. layers.Select(static layer => layer.Layer)], Batch(more).Features, inFlight: 1).Costs : [1];
        var ids = new Dictionary<Tensor, int>(ModelParameters.Identity);
        return [.. profiles.Select((profile, index) => profile with
        {
            Name = layers[index].Name,
            BalanceCost = balance[index],
            Parameters = [.. Owned(layers[index].Layer).Select(owned =>
            {
                ids.TryAdd(owned.Parameter, ids.Count);
                return new ParameterProfile(ids[owned.Parameter], owned.Parameter.numel(), probe.Divides(owned.Owner, owned.Parameter));
            })],
        })];
    }

    private static IEnumerable<(nn.Module Owner, Parameter Parameter)> Owned(nn.Module layer) =>
        layer.named_modules().Select(static entry => entry.module).Append(layer).Distinct<nn.Module>(ReferenceEqualityComparer.Instance)
            .SelectMany(static module => module.named_parameters(recurse: false).Select(entry => (module, entry.parameter)));

    /// <summary>One layer with one number of samples: seconds, and bytes of all of them together.</summary>
    private sealed record LayerMeasurement
    {
        public double Forward { get; init; }

        public double Backward { get; init; }

        public long Saved { get; init; }

        public long ForwardPeak { get; init; }

        public long BackwardPeak { get; init; }

        public long BackwardChange { get; init; }

        public long OutputBytes { get; init; }

        public double DividedSeconds { get; init; }

        public long DividedBytes { get; init; }

        public IReadOnlyList<TensorCollective> Collectives { get; init; } = [];
    }
}

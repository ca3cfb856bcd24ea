using System.Runtime.InteropServices;
using System.Text.Json;
using Skein.Cli.LibTorch;
using Skein.Collectives;
using Skein.Collectives.Rendezvous;
using Skein.Training;
using Skein.Training.LibTorch;
using Skein.Training.Meshes;
using Skein.Training.Optimizers;
using Skein.Training.ParameterServers;
using Skein.Workloads;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Cli.Train;

/// <summary>One worker of <c>skein train</c>: the whole job when it runs alone, one rank of it when a launcher started it.</summary>
internal static class TrainWorker
{
    private const int NamesShown = 6;

    /// <summary>Trains and, on rank 0, writes the run directory and the summary.</summary>
    /// <returns>0. What goes wrong is thrown; the command's entry turns it into a line on stderr and an exit code.</returns>
    /// <exception cref="UsageException">The options make no sense together.</exception>
    public static async Task<int> RunAsync(TrainOptions options, CancellationToken cancellationToken)
    {
        ProcessGroupOptions place = LauncherEnvironment.Read();
        if (options.RunDirectory is { } run) place = place with { FlightRecorderDirectory = run };
        TrainPlan plan = TrainPlan.Create(options, place.WorldSize);
        await LibTorchFetch.EnsureLoadedAsync();
        Device device = SelectDevice(plan.Device, place.LocalRank);

        // Before the ranks meet: what is missing on all is then said at once and by each.
        await ExternalFiles.FetchAsync(plan.Workload, cancellationToken);
        using WorkloadData data = await plan.Workload.LoadDataAsync(cancellationToken);
        bool aggregates = options.Server.Aggregate > 1;
        using nn.Module<Tensor, Tensor> model = plan.Workload.CreateModel(
            plan.Model, plan.Seed, plan.Servers is null || aggregates ? null : static spec => new RemoteEmbedding(spec)).to(device);
        if (plan.Precision == "bf16") model.to(ScalarType.BFloat16);
        CheckRules(plan, model);
        long parameterCount = model.parameters().Sum(static parameter => parameter.numel());
        await using ProcessGroup? group = plan.Strategy is TrainPlan.DataParallel or TrainPlan.LocalSgdStrategy || plan.ModelParallel is not null || (plan.Gossip is not null && !plan.Pushes) || aggregates ? await JoinAsync(plan, place, cancellationToken) : null;
        await using DeviceMesh? mesh = plan.ModelParallel is { } divided ? await DeviceMesh.CreateAsync(group!, divided.Shape) : null;
        using Strategy strategy = plan.Strategy switch
        {
            _ when mesh is not null => ModelParallelStrategy.Create(plan, mesh, model, data.Train),
            TrainPlan.ParameterServer when aggregates => await HostAggregatedServers.JoinAsync(group!, options.Server.Aggregate, Job(options), cancellationToken),
            TrainPlan.ParameterServer => await ParameterServerStrategy.JoinAsync(Job(options), cancellationToken),
            TrainPlan.DataParallel => new DataParallel(group!, new DataParallelOptions { BucketBytes = plan.BucketBytes, Compression = plan.Compression }),
            TrainPlan.LocalSgdStrategy => new LocalSgd(group!, plan.LocalSgd),
            TrainPlan.GossipStrategy when plan.Pushes => await GossipPush.JoinAsync(place, plan.Gossip, cancellationToken),
            TrainPlan.GossipStrategy => new Gossip(group!, plan.Gossip),
            _ => new SingleProcess(),
        };
        ParameterServerStrategy? servers = strategy as ParameterServerStrategy ?? (strategy as HostAggregatedServers)?.Leader;
        int id = group?.Rank ?? strategy.Rank;
        if (id == 0 && options.Verbose && mesh is not null) Console.Error.WriteLine(mesh);
        if (id == 0 && strategy is Gossip told) GossipUsage.Announce(told, plan.Gossip!);

        using RunDirectory? directory = id == 0 ? RunDirectory.Create(options.RunDirectory, plan.Workload.Name) : null;
        directory?.Write("config.json", Describe(plan));
        ProcessGroup? learns = LearnsAllLosses(plan) ? group : null;
        DivergenceGuard? guard = options.Server.AllowNonFinite
            ? null
            : new DivergenceGuard(plan.Workload.Loss, learns, id, plan.LearningRate);
        TrainProgress? progress = directory is null ? null : new TrainProgress(directory, plan.Epochs, options.Verbose);
        var trainer = new Trainer(model, parameters => CreateOptimizer(plan, strategy, parameters), guard is null ? plan.Workload.Loss : guard.Loss)
        {
            Strategy = strategy,
            BatchSize = plan.BatchSize,
            GradientAccumulation = plan.GradientAccumulation,
            MaxSteps = plan.MaxSteps,
            Seed = plan.Seed,
            Partition = plan.Partition,
            Slowdown = plan.Straggler is { } straggler && straggler.Rank == id ? straggler.Factor : 1,
            LearningRate = step => plan.Defaults.LearningRateAt(step, plan.LearningRate),
            StepCompleted = step =>
            {
                progress?.Report(step);
                if (!LeavesOutNonFinite(plan)) guard?.Check(step);
            },
        };
        long bytesBefore = BytesSent();
        TrainingReport report = await trainer.FitAsync(data.Train, plan.Epochs, cancellationToken);
        long bytesSent = BytesSent() - bytesBefore;
        EvaluationReport evaluation = await trainer.EvaluateAsync(data.Test, cancellationToken);
        guard?.Check(evaluation, report.Steps);
        // While the other ranks are there, which wait for this one below.
        IReadOnlyDictionary<string, double>? metrics = id == 0 ? Evaluate(plan.Workload, model, data) : null;

        string? file = plan.Workload.Language is null || directory is null ? null : Path.Combine(directory.Path, LanguageUsage.ModelFile);
        string checksum = ParameterChecksum.Agree(strategy, model, file);
        double peak = LanguageUsage.MeasurePeak(strategy, plan.Workload, device);
        RankUsage[] usage = RankUsage.Gather(strategy, report, bytesSent);
        if (directory is not null)
        {
            foreach (RankUsage rank in usage) directory.AddMetrics(rank);
            TrainSummary summary = Summarize(plan, group, servers is { Settings.Elastic: true }, parameterCount, report, evaluation, metrics, usage, checksum, directory.Path);
            if (plan.Compression is not null) summary = CompressionUsage.Add(summary, strategy, plan.Compression);
            if (strategy is Gossip gossip) summary = GossipUsage.Add(summary, gossip, plan.Gossip!);
            if (strategy is GossipPush push) summary = GossipUsage.Add(summary, push, plan.Gossip!);
            if (servers is not null) summary = await ServerUsage.AddAsync(summary, servers, cancellationToken);
            if (plan.Workload.Language is not null) summary = LanguageUsage.Add(summary, plan.Workload, peak);
            if (plan.ModelParallel is not null) summary = ModelParallelUsage.Add(summary, plan, strategy);
            directory.Write("summary.json", summary);
            Console.WriteLine(options.Json ? JsonSerializer.Serialize(summary, TrainSummary.Json) : summary.ForPeople());
        }

        trainer.Optimizer?.Dispose();
        return 0;

        long BytesSent() => (mesh?.BytesSent ?? group?.BytesSent ?? 0) + (servers?.BytesSent ?? 0) + ((strategy as Gossip)?.BytesSent ?? (strategy as GossipPush)?.BytesSent ?? 0);
    }

    private static bool LearnsAllLosses(TrainPlan plan) => plan.Strategy == TrainPlan.DataParallel || plan.ModelParallel is not null;

    /// <summary>Whether such a step changes nothing: with compression all ranks go on without it, and servers refuse it.</summary>
    private static bool LeavesOutNonFinite(TrainPlan plan) =>
        plan.Servers is not null || (plan.Compression is not null && LearnsAllLosses(plan));

    /// <exception cref="UsageException">A rule of the compression is for no parameter.</exception>
    private static void CheckRules(TrainPlan plan, nn.Module model)
    {
        string[] names = [.. model.named_parameters().Select(static entry => entry.name)];
        if (plan.Compression?.Rules.Unmatched(names).FirstOrDefault() is not { } text) return;
        string some = string.Join(", ", names.Take(NamesShown)) + (names.Length > NamesShown ? ", …" : "");
        throw new UsageException(
            $"--compression is {plan.Compression.Rules}, but no parameter of {plan.Model} has '{text}' in its name: they are {some}");
    }

    private static ParameterServerOptions Job(TrainOptions options) =>
        options.Coordinator is { } address ? ParameterServerOptions.FromEnvironment(address) : ParameterServerOptions.FromEnvironment();

    private static Task<ProcessGroup> JoinAsync(TrainPlan plan, ProcessGroupOptions place, CancellationToken cancellationToken) =>
        ProcessGroup.InitializeAsync(
            place with { Transport = plan.Transport ?? place.Transport, Algorithm = plan.Algorithm ?? place.Algorithm }, cancellationToken);

    private static Device SelectDevice(string name, int localRank)
    {
        if (name == "cpu") return CPU;
        int count = cuda.is_available() ? cuda.device_count() : 0;
        return localRank < count
            ? new Device(DeviceType.CUDA, localRank)
            : throw new InvalidOperationException(
                count == 0
                    ? "--device cuda: LibTorch finds no GPU here; it needs NVIDIA's driver and a CUDA package of LibTorch instead of the CPU one, or use --device cpu"
                    : $"--device cuda: local rank {localRank} has no GPU, since this machine has {count}; use at most {count} workers here");
    }

    private static optim.Optimizer CreateOptimizer(
        TrainPlan plan, Strategy strategy, IReadOnlyList<Parameter> parameters) => plan.Optimizer switch
        {
            _ when strategy is ParameterServerStrategy job => JobOptimizer.Create(job.Settings.Optimizer, parameters, plan.LearningRate),
            _ when strategy is HostAggregatedServers hosts => JobOptimizer.Create(hosts.Settings.Optimizer, parameters, plan.LearningRate),
            "sgd" => optim.SGD(parameters, plan.LearningRate, weight_decay: plan.Defaults.WeightDecay ?? 0),
            "momentum" => optim.SGD(parameters, plan.LearningRate, momentum: TrainPlan.Momentum, weight_decay: plan.Defaults.WeightDecay ?? 0),
            "adam" => optim.Adam(parameters, plan.LearningRate, weight_decay: plan.Defaults.WeightDecay ?? 0),
            "adamw" => new DistributedAdam(parameters, plan.LearningRate, weightDecay: plan.Defaults.WeightDecay ?? 0.01),
            _ => throw new ArgumentOutOfRangeException(nameof(plan), plan.Optimizer, "no such optimizer"),
        };

    private static IReadOnlyDictionary<string, double>? Evaluate(Workload workload, nn.Module<Tensor, Tensor> model, WorkloadData data)
    {
        model.eval();
        return workload.Evaluate?.Invoke(model, data);
    }

    private static object Describe(TrainPlan plan) => new
    {
        Workload = plan.Workload.Name,
        plan.Model,
        plan.Workload.Language,
        plan.Strategy,
        plan.WorldSize,
        plan.Epochs,
        plan.MaxSteps,
        plan.BatchSize,
        plan.Optimizer,
        plan.LearningRate,
        plan.Defaults.WarmupSteps,
        plan.Defaults.WeightDecay,
        plan.Precision,
        plan.GradientAccumulation,
        Mesh = plan.ModelParallel?.Shape.ToString(),
        Zero = plan.ModelParallel?.Zero,
        Schedule = plan.ModelParallel?.Schedule?.ToString(),
        plan.ModelParallel?.Split,
        plan.ModelParallel?.SequenceParallel,
        plan.ModelParallel?.ActivationCheckpointing,
        plan.ModelParallel?.OffloadOptimizer,
        plan.Device,
        plan.BucketBytes,
        plan.Seed,
        plan.Servers,
        plan.LocalSgd,
        Gossip = GossipUsage.Name(plan),
        Topology = plan.Gossip?.Topology.ToString(),
        plan.Gossip?.ConsensusStep,
        Partition = plan.Partition?.ToString() ?? "iid",
        Compression = plan.Compression?.Rules.ToString(),
        CompressionMomentum = plan.Compression?.Momentum,
        CompressionClip = plan.Compression?.ClipNorm,
        CompressionWarmup = plan.Compression?.WarmupSteps,
        Straggler = plan.Straggler is { } straggler ? $"{straggler.Rank}:{straggler.Factor}" : null,
        SkeinVersion = typeof(Trainer).Assembly.GetName().Version?.ToString(3),
        LibtorchVersion = NativeLibTorch.Status.Version,
        Runtime = RuntimeInformation.FrameworkDescription,
        OperatingSystem = RuntimeInformation.OSDescription,
        Environment.ProcessorCount,
        ThreadsPerWorker = get_num_threads(),
    };

    private static TrainSummary Summarize(
        TrainPlan plan,
        ProcessGroup? group,
        bool elastic,
        long parameterCount,
        TrainingReport report,
        EvaluationReport evaluation,
        IReadOnlyDictionary<string, double>? metrics,
        RankUsage[] usage,
        string checksum,
        string directory)
    {
        return new TrainSummary
        {
            Workload = plan.Workload.Name,
            Model = plan.Model,
            Strategy = plan.Strategy,
            Workers = usage.Length,
            WorldSize = usage.Length,
            Seed = plan.Seed,
            Epochs = report.Epochs,
            Steps = report.Steps,
            GlobalBatchSize = plan.BatchSize,
            ParameterCount = parameterCount,
            TrainLoss = report.TrainLoss,
            TestLoss = evaluation.Loss,
            TestAccuracy = evaluation.Accuracy,
            TestRmse = Metric("test_rmse"),
            BaselineRmseGlobalMean = Metric("baseline_rmse_global_mean"),
            BaselineRmseBiases = Metric("baseline_rmse_biases"),
            RecallAt10 = Metric("recall_at_10"),
            LossHistory = report.LossHistory,
            // In an elastic job each worker knows its own only.
            SamplesPerSecond = elastic ? usage.Sum(rank => rank.Samples) / report.WallTime.TotalSeconds : report.SamplesPerSecond,
            WallSeconds = report.WallTime.TotalSeconds,
            ComputeSeconds = report.ComputeTime.TotalSeconds,
            CommunicationSeconds = report.CommunicationTime.TotalSeconds,
            BytesSentPerWorker = (long)usage.Average(rank => rank.BytesSent),
            PeakRssBytes = usage.Max(rank => rank.PeakRssBytes),
            ParameterChecksum = checksum,
            Transport = group?.TransportName ?? (plan.Servers is null && !plan.Pushes ? null : "tcp"),
            Algorithm = group?.AlgorithmName,
            Compression = plan.Strategy == "single" ? null : "none",
            RunDirectory = directory,
        };

        double? Metric(string name) => metrics is not null && metrics.TryGetValue(name, out double value) ? value : null;
    }
}

using Skein.Collectives;
using Skein.Collectives.Rendezvous;
using Skein.ParameterServer;
using Skein.Training;
using Skein.Training.Compression;
using Skein.Training.Data;
using Skein.Training.Decentralized;
using Skein.Training.Meshes;
using Skein.Workloads;

namespace Skein.Cli.Train;

/// <summary>Checked options, with the workload's defaults filled in.</summary>
internal sealed record TrainPlan
{
    private static readonly string[] Strategies =
    [
        "single", DataParallel, ModelParallelPlan.Sharded, ModelParallelPlan.Pipeline, ModelParallelPlan.Tensor, ModelParallelPlan.Mesh,
        LocalSgdStrategy, GossipStrategy, ParameterServer,
    ];
    public const string DataParallel = "ddp";
    public const string ParameterServer = "parameter-server";
    public const string LocalSgdStrategy = "local-sgd";
    public const string GossipStrategy = "gossip";
    private static readonly string[] Optimizers = ["sgd", "momentum", "adam", "adamw"];
    private static readonly string[] Precisions = ["fp32", "bf16"];
    private static readonly string[] Devices = ["cpu", "cuda"];
    private const double SmallestBucketMib = 0.001;
    private const double LargestBucketMib = 1024;
    private const double MostSlowdown = 1000;

    // An update with it is still a number.
    private const double LargestLearningRate = 1e30;

    private const double AdaptiveLearningRate = 1e-3;
    private const double PlainLearningRate = 0.01;

    /// <summary>Of the optimizer called momentum.</summary>
    public const double Momentum = 0.9;

    public required Workload Workload { get; init; }
    public required string Model { get; init; }
    public required Hyperparameters Defaults { get; init; }
    public required string Strategy { get; init; }
    public required int WorldSize { get; init; }
    public required int Epochs { get; init; }
    public required long? MaxSteps { get; init; }
    public required int BatchSize { get; init; }
    public required string Optimizer { get; init; }
    public required double LearningRate { get; init; }
    public required string Precision { get; init; }
    public required int GradientAccumulation { get; init; }
    public required string Device { get; init; }
    public required TransportKind? Transport { get; init; }
    public required AllReduceAlgorithm? Algorithm { get; init; }
    public required int BucketBytes { get; init; }
    public required long Seed { get; init; }

    /// <summary>The rank that is slowed down, and how many times.</summary>
    public required (int Rank, double Factor)? Straggler { get; init; }

    /// <summary>What a job with parameter servers agrees on; null for other strategies.</summary>
    public required JobSettings? Servers { get; init; }

    /// <summary>How workers divide the model; null for other strategies.</summary>
    public required ModelParallelPlan? ModelParallel { get; init; }

    /// <summary>How often workers meet; null for other strategies.</summary>
    public required LocalSgdOptions? LocalSgd { get; init; }

    /// <summary>With whom workers talk; null for other strategies.</summary>
    public required GossipOptions? Gossip { get; init; }

    /// <summary>Whether workers that gossip push, and outlive the loss of others.</summary>
    public required bool Pushes { get; init; }

    /// <summary>Which data each worker has; null: a part of each global batch.</summary>
    public required DataPartition? Partition { get; init; }

    /// <summary>How gradients are compressed; null: not.</summary>
    public required CompressionOptions? Compression { get; init; }

    /// <summary>Checks <paramref name="options"/> for a job of <paramref name="worldSize"/> workers, without loading LibTorch or data.</summary>
    /// <exception cref="UsageException">Something is unknown or does not fit; the message lists the choices or shows the arithmetic.</exception>
    public static TrainPlan Create(TrainOptions options, int worldSize)
    {
        string name = OneOf("workload", options.Workload, Workload.All.Select(known => known.Name));
        Workload workload = Workload.Find(name)!;
        string model = OneOf($"model of {name}", options.Model ?? workload.Models[0].Name, workload.Models.Select(known => known.Name));
        workload = LanguageSyntax.Apply(workload, model, options.Language);
        Hyperparameters defaults = workload.DefaultsOf(model);
        AtLeast("--workers", worldSize, 1);
        string strategy = OneOf("strategy", options.Strategy ?? (worldSize == 1 ? "single" : DataParallel), Strategies);
        var plan = new TrainPlan
        {
            Workload = workload,
            Model = model,
            Defaults = defaults,
            Strategy = strategy,
            WorldSize = worldSize,
            Epochs = (int)AtLeast("--epochs", options.Epochs ?? defaults.Epochs, 1),
            MaxSteps = options.MaxSteps is { } steps ? AtLeast("--max-steps", steps, 1) : null,
            BatchSize = (int)AtLeast("--batch-size", options.BatchSize ?? defaults.BatchSize, 1),
            Optimizer = OneOf("optimizer", options.Optimizer ?? defaults.Optimizer, Optimizers),
            LearningRate = LearningRateOf(options, defaults, strategy),
            Precision = OneOf("precision", options.Precision, Precisions),
            GradientAccumulation = (int)AtLeast("--gradient-accumulation", options.GradientAccumulation, 1),
            Device = OneOf("device", options.Device, Devices),
            Transport = Parse(options.Transport, OptionNames.ParseTransport),
            Algorithm = Parse(options.Algorithm, OptionNames.ParseAlgorithm),
            BucketBytes = (int)(Within("--bucket-mib", options.BucketMib, SmallestBucketMib, LargestBucketMib) * (1 << 20)),
            Seed = AtLeast("--seed", options.Seed, 0),
            Straggler = ParseStraggler(options.Straggler, worldSize),
            Servers = null,
            ModelParallel = ModelParallelPlan.Create(options.ModelParallel, strategy, worldSize),
            LocalSgd = null,
            Gossip = null,
            Pushes = options.Pushes,
            Partition = options.Partition,
            Compression = options.Compression,
        };
        CheckGiven(options, plan.Strategy);
        plan.CheckDivision();
        return (plan.Strategy switch
        {
            ParameterServer => plan with { Servers = PlanServers(options, plan) },
            LocalSgdStrategy => plan with { LocalSgd = PlanLocalSgd(options) },
            GossipStrategy => plan with { Gossip = PlanGossip(options, worldSize) },
            DataParallel or ModelParallelPlan.Mesh => plan.MoveMomentum(),
            _ => plan,
        }).CheckSplit(options);
    }

    /// <summary>How many workers, or groups of workers that divide the model, share each global batch.</summary>
    public int DataWorkers => ModelParallel?.Shape[MeshShape.Data] ?? WorldSize;

    /// <summary>Momentum comes before compression where only some values are sent (deep gradient compression), and then not again.</summary>
    private TrainPlan MoveMomentum()
    {
        bool sparse = Compression is not null && Compression.Rules.Specs.Any(static spec => spec.Method is CompressionMethod.TopK or CompressionMethod.RandomK);
        return Optimizer == "momentum" && sparse && DataWorkers > 1
            ? this with { Optimizer = "sgd", Compression = Compression! with { Momentum = Momentum } }
            : this;
    }

    private static LocalSgdOptions PlanLocalSgd(TrainOptions options)
    {
        LocalSgdOptions chosen = options.LocalSgd with { Compression = options.Compression };
        try
        {
            chosen.Validate();
            return chosen;
        }
        catch (ArgumentException error)
        {
            throw new UsageException(error.Message);
        }
    }

    private static GossipOptions PlanGossip(TrainOptions options, int worldSize)
    {
        CompressionRules? rules = options.Compression?.Rules;
        if (options.Pushes)
        {
            if (rules is not null) throw new UsageException($"--compression is {rules}, which --gossip push has not: leave it out, or use --gossip average");
            if (options.Transport is not (null or "auto" or "tcp")) throw new UsageException($"--transport is {options.Transport}: --gossip push uses tcp");
            if (options.Algorithm is not (null or "auto")) throw new UsageException($"--algorithm is {options.Algorithm}, but --gossip push uses no all-reduce: leave it out");
        }

        if (rules is not null && (rules.Specs.Distinct().Count() > 1 || options.Compression is { WarmupSteps: > 0 } or { ClipNorm: not null }))
        {
            throw new UsageException($"--compression is {rules}: gossip compresses all parameters in one way, without warm-up and clipping");
        }

        GossipOptions chosen = options.Gossip with { Compression = rules?.Common ?? CompressionSpec.None };
        try
        {
            chosen.Validate(worldSize);
            return chosen;
        }
        catch (ArgumentException error)
        {
            throw new UsageException(error.Message);
        }
    }

    private void CheckDivision()
    {
        if (ModelParallel is null) return;
        if (Compression is not null && DataWorkers == 1) throw new UsageException($"--compression is {Compression.Rules}, which is for gradients between data-parallel workers, but the mesh is {ModelParallel.Shape}: use one with dp above 1, or no compression");

        if (ModelParallel.Shape[MeshShape.Tensor] > 1 && Workload.Choice(Model).TensorPlan is null)
        {
            string[] divisible = [.. Workload.Models.Where(static model => model.TensorPlan is not null).Select(static model => model.Name)];
            throw new UsageException($"the model {Model} has no plan for tensor parallelism{(divisible.Length > 0 ? $"; {Workload.Name} has it for {string.Join(", ", divisible)}" : "")}");
        }

        if (ModelParallel.DividesModel && Workload.Evaluate is not null) throw new UsageException($"{Workload.Name} is measured on the whole model, which no worker would have: use --strategy ddp, or sharded with --zero 1 or 2");
    }

    private TrainPlan CheckSplit(TrainOptions options)
    {
        if (Strategy == "single" && WorldSize > 1)
        {
            throw new UsageException($"strategy single is one process, but there are {WorldSize} workers: use --strategy ddp, or one worker");
        }

        int sharing = DataWorkers;
        string workers = sharing == WorldSize ? $"{sharing} workers" : $"{sharing} data-parallel workers";
        (int share, int rest) = Math.DivRem(BatchSize, sharing);
        if (rest != 0)
        {
            string nearest = share == 0 ? $"{sharing}" : $"{share * sharing} or {(share + 1) * sharing}";
            throw new UsageException(
                $"a batch of {BatchSize} does not divide by {workers} ({BatchSize} = {sharing} * {share} + {rest}): use --batch-size {nearest}, or another number of workers");
        }

        return GradientAccumulation <= share
            ? this with { GradientAccumulation = ModelParallel?.MicroBatches(options.ModelParallel, GradientAccumulation, share) ?? GradientAccumulation }
            : throw new UsageException(
                $"--gradient-accumulation is {GradientAccumulation}, but each worker has only {share} samples of a step ({BatchSize} / {sharing})");
    }

    private static JobSettings PlanServers(TrainOptions options, TrainPlan plan)
    {
        if (options.Coordinator is { } address) ParameterServerSyntax.ParseCoordinator(address);
        if (plan.Transport is not (null or TransportKind.Auto or TransportKind.Tcp)) throw new UsageException($"--transport is {options.Transport}: parameter servers use tcp");
        if (plan.Algorithm is not (null or AllReduceAlgorithm.Auto)) throw new UsageException("--algorithm needs --strategy ddp: parameter servers use no all-reduce");
        TimeSpan timeout = LauncherEnvironment.ReadTimeout() ?? TimeSpan.FromSeconds(300);
        return options.Server.ToSettings(plan.WorldSize, plan.Optimizer, plan.Defaults.WeightDecay ?? 0, plan.Seed, timeout);
    }

    private static void CheckGiven(TrainOptions options, string strategy)
    {
        foreach ((string owner, IReadOnlyList<string> given) in options.Given)
        {
            if (owner != strategy && given is [var first, ..]) throw new UsageException($"{first} needs --strategy {owner}");
        }

        if (options.Compression is not null && strategy is not (DataParallel or ModelParallelPlan.Mesh or LocalSgdStrategy or GossipStrategy)) throw new UsageException($"--compression is {options.Compression.Rules}, which needs --strategy {DataParallel}, {ModelParallelPlan.Mesh}, {LocalSgdStrategy} or {GossipStrategy}; this is {strategy}");
        if (options.Compression is not null && options.ModelParallel.Zero is not null) throw new UsageException($"--compression is {options.Compression.Rules}, but --zero divides the gradients that it would compress: use one of the two");
        if (options.Precision != "fp32" && strategy is ParameterServer or LocalSgdStrategy or GossipStrategy) throw new UsageException($"--precision is {options.Precision}, which --strategy {strategy} has not: use fp32");
        if (options.Restarts > 0 && !options.Pushes) throw new UsageException($"--restarts is {options.Restarts}, which needs --strategy {GossipStrategy} --gossip push, whose workers can come back");
        if (options.Coordinator is not null && strategy != ParameterServer) throw new UsageException($"--coordinator needs --strategy {ParameterServer}");
    }

    private static (int Rank, double Factor)? ParseStraggler(string? text, int worldSize)
    {
        if (text is null) return null;
        string[] parts = text.Split(':');
        if (parts.Length == 2 && Numbers.TryParse(parts[0], out int rank) && Numbers.TryParse(parts[1], out double factor)
            && rank >= 0 && rank < worldSize && factor is >= 1 and <= MostSlowdown)
        {
            return (rank, factor);
        }

        throw new UsageException(
            $"--straggler is '{text}': give RANK:FACTOR, with a rank from 0 to {worldSize - 1} and a factor from 1 to {MostSlowdown}");
    }

    private static string OneOf(string what, string value, IEnumerable<string> known) =>
        known.Contains(value) ? value : throw new UsageException($"unknown {what} '{value}'; choose one of: {string.Join(", ", known)}");

    private static long AtLeast(string option, long value, long minimum) =>
        value >= minimum ? value : throw new UsageException($"{option} is {value}: give a whole number from {minimum}");

    private static double Within(string option, double value, double minimum, double maximum)
    {
        if (value > 0 && value >= minimum && value <= maximum) return value;
        string range = minimum > 0 ? $"from {minimum} to {maximum}" : $"above 0 and at most {maximum}";
        throw new UsageException($"{option} is {value}: give a number {range}");
    }

    /// <summary>The rate that was written; else the workload's where that suits the kind of optimizer, else the kind's own.</summary>
    private static double LearningRateOf(TrainOptions options, Hyperparameters defaults, string strategy)
    {
        if (options.LearningRate is { } written) return Within("--learning-rate", written, 0, LargestLearningRate);
        string optimizer = (strategy == ParameterServer ? options.Server.Optimizer : null) ?? options.Optimizer ?? defaults.Optimizer;
        return (defaults.Optimizer, optimizer) switch
        {
            _ when optimizer == defaults.Optimizer => defaults.LearningRate,
            ("adam" or "adamw", "adam" or "adamw") => defaults.LearningRate,
            (_, "adam" or "adamw") => AdaptiveLearningRate,
            // In the long run momentum goes 1 / (1 - 0.9) times as far.
            ("sgd", "momentum") => defaults.LearningRate * (1 - Momentum),
            ("momentum", "sgd") => defaults.LearningRate,
            _ => PlainLearningRate,
        };
    }

    private static T? Parse<T>(string? name, Func<string, T> parse)
        where T : struct
    {
        try
        {
            return name is null ? null : parse(name);
        }
        catch (FormatException e)
        {
            throw new UsageException(e.Message);
        }
    }
}

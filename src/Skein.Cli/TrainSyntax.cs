using System.CommandLine;
using Skein.Cli.Train;

namespace Skein.Cli;

/// <summary>The options of <c>skein train</c>, as written on the command line.</summary>
internal static class TrainSyntax
{
    private static readonly Argument<string> Workload = new("WORKLOAD")
    {
        Description = $"What to train: {string.Join(", ", Workloads.Workload.All.Select(static workload => workload.Name))}",
        Arity = ArgumentArity.ZeroOrOne,
        DefaultValueFactory = static _ => "digits",
    };
    private static readonly Option<string?> Strategy = Text("--strategy", "S", "How workers share the work: single, ddp, sharded, pipeline, tensor, mesh, local-sgd, gossip or parameter-server [default: by the number of workers]");
    private static readonly Option<int> Workers = new("--workers") { Description = "Worker processes on this machine", HelpName = "N", DefaultValueFactory = _ => 1 };
    private static readonly Option<int?> Epochs = Number<int?>("--epochs", "E", "Passes over the training data [default: the workload's]");
    private static readonly Option<long?> MaxSteps = Number<long?>("--max-steps", "K", "The most optimizer steps");
    private static readonly Option<int?> BatchSize = Number<int?>("--batch-size", "B", "Samples per optimizer step, over all workers [default: the workload's]");
    private static readonly Option<string?> Optimizer = Text("--optimizer", "O", "sgd, momentum, adam or adamw [default: the workload's]");
    private static readonly Option<double?> LearningRate = Number<double?>(
        "--learning-rate", "LR",
        "Step size, after the workload's warm-up [default: the workload's for its kind of optimizer; else 0.001 for adam, adamw, 0.01 for others]");
    private static readonly Option<string?> Model = Text("--model", "NAME", "One of the workload's models [default: its first]");
    private static readonly Option<string?> Precision = Text("--precision", "P", "fp32, or bf16 with single-precision copies for the optimizer [default: fp32]");
    private static readonly Option<int?> GradientAccumulation = Number<int?>("--gradient-accumulation", "G", "Micro-batches per worker and step [default: 1]");
    private static readonly Option<string?> Device = Text("--device", "D", "cpu or cuda [default: cpu]");
    private static readonly Option<string?> Transport = Text("--transport", "T", "auto, tcp, shm or mpi [default: auto]");
    private static readonly Option<string?> Algorithm = Text("--algorithm", "A", "auto, ring, halving-doubling, tree or hierarchical [default: auto]");
    private static readonly Option<double?> BucketMib = Number<double?>("--bucket-mib", "M", "Largest size of a gradient bucket in MiB [default: 25]");

    private static readonly Option<string?> Coordinator = Text("--coordinator", "HOST:PORT", "Join the job with parameter servers that this coordinator leads [default: SKEIN_COORDINATOR, else a new job]");
    private static readonly Option<string?> Straggler = Text("--straggler", "RANK:FACTOR", "Make that rank's computation last FACTOR times as long, for experiments");

    private static readonly Option<int> Restarts = new("--restarts") { HelpName = "N", Description = "With --gossip push, how many times in all lost workers are started again [default: 0]" };

    public static Command Create()
    {
        var command = CreateCommon();
        foreach (var option in ModelParallelSyntax.All.Concat(CompressionSyntax.All).Concat(ParameterServerSyntax.All).Concat(LocalSgdSyntax.All).Concat(GossipSyntax.All).Concat(LanguageSyntax.All)) command.Add(option);
        return command;
    }

    private static Command CreateCommon() => new("train", "Trains a built-in workload")
    {
        Workload, Strategy, Workers, Epochs, MaxSteps, BatchSize, Optimizer, LearningRate, Model, Precision,
        GradientAccumulation, Device, Transport, Algorithm, BucketMib,
        Coordinator, Straggler, Restarts,
    };

    public static TrainOptions Read(ParseResult parsed)
    {
        var options = new TrainOptions { Workload = parsed.GetRequiredValue(Workload) };
        return options with
        {
            Strategy = parsed.GetValue(Strategy),
            Workers = CommandLine.AtLeastOne(parsed, Workers),
            WorkersWritten = parsed.GetResult(Workers) is { Implicit: false },
            Epochs = parsed.GetValue(Epochs),
            MaxSteps = parsed.GetValue(MaxSteps),
            BatchSize = parsed.GetValue(BatchSize),
            Optimizer = parsed.GetValue(Optimizer),
            LearningRate = parsed.GetValue(LearningRate),
            Model = parsed.GetValue(Model),
            Precision = parsed.GetValue(Precision) ?? options.Precision,
            GradientAccumulation = parsed.GetValue(GradientAccumulation) ?? options.GradientAccumulation,
            Device = parsed.GetValue(Device) ?? options.Device,
            Transport = parsed.GetValue(Transport),
            Algorithm = parsed.GetValue(Algorithm),
            BucketMib = parsed.GetValue(BucketMib) ?? options.BucketMib,
            Compression = CompressionSyntax.Read(parsed),
            Server = ParameterServerSyntax.Read(parsed),
            ModelParallel = ModelParallelSyntax.Read(parsed),
            LocalSgd = LocalSgdSyntax.Read(parsed),
            Gossip = GossipSyntax.Read(parsed),
            Language = LanguageSyntax.Read(parsed),
            Pushes = GossipSyntax.ReadPush(parsed),
            Partition = GossipSyntax.ReadPartition(parsed),
            Given = new Dictionary<string, IReadOnlyList<string>>
            {
                [TrainPlan.ParameterServer] = ParameterServerSyntax.Given(parsed),
                [TrainPlan.LocalSgdStrategy] = LocalSgdSyntax.Given(parsed),
                [TrainPlan.GossipStrategy] = GossipSyntax.Given(parsed),
            },
            Coordinator = parsed.GetValue(Coordinator),
            Straggler = parsed.GetValue(Straggler),
            Restarts = CommandLine.NotNegative(parsed, Restarts),
            Seed = parsed.GetValue(CommonOptions.Seed),
            RunDirectory = parsed.GetValue(CommonOptions.RunDirectory),
            Json = parsed.GetValue(CommonOptions.Json),
            Verbose = parsed.GetValue(CommonOptions.Verbose),
        };
    }

    private static Option<string?> Text(string name, string helpName, string description) =>
        new(name) { HelpName = helpName, Description = description };

    private static Option<T> Number<T>(string name, string helpName, string description) =>
        new(name) { HelpName = helpName, Description = description };
}

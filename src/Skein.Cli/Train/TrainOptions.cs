using Skein.Training;
using Skein.Training.Compression;
using Skein.Training.Data;
using Skein.Training.Decentralized;
using Skein.Workloads.Language;

namespace Skein.Cli.Train;

/// <summary>What was asked of <c>skein train</c>. A null leaves the choice to the workload; <see cref="TrainPlan"/> checks the rest.</summary>
internal sealed record TrainOptions
{
    /// <summary>Name of the workload, such as <c>digits</c>.</summary>
    public required string Workload { get; init; }

    /// <summary><c>single</c>, <c>ddp</c>, <c>local-sgd</c>, <c>gossip</c> or <c>parameter-server</c>. Null: <c>single</c> for one worker, <c>ddp</c> for more.</summary>
    public string? Strategy { get; init; }

    /// <summary>Number of worker processes, 1 or more; a worker of a launched job takes the job's world size instead.</summary>
    public int Workers { get; init; } = 1;

    /// <summary>Whether that number was written on the command line.</summary>
    public bool WorkersWritten { get; init; }

    /// <summary>Passes over the training data, 1 or more.</summary>
    public int? Epochs { get; init; }

    /// <summary>The most optimizer steps, 1 or more. Null: as many as the epochs have.</summary>
    public long? MaxSteps { get; init; }

    /// <summary>Samples per optimizer step over all workers; a multiple of the number of workers.</summary>
    public int? BatchSize { get; init; }

    /// <summary><c>sgd</c>, <c>momentum</c>, <c>adam</c> or <c>adamw</c>.</summary>
    public string? Optimizer { get; init; }

    /// <summary>Learning rate after the workload's warm-up, above 0.</summary>
    public double? LearningRate { get; init; }

    /// <summary>One of the workload's models.</summary>
    public string? Model { get; init; }

    /// <summary><c>fp32</c> or <c>bf16</c>.</summary>
    public string Precision { get; init; } = "fp32";

    /// <summary>Micro-batches per worker and step, 1 or more.</summary>
    public int GradientAccumulation { get; init; } = 1;

    /// <summary><c>cpu</c> or <c>cuda</c>.</summary>
    public string Device { get; init; } = "cpu";

    /// <summary><c>auto</c>, <c>tcp</c>, <c>shm</c> or <c>mpi</c>. Null: as the environment says, else <c>auto</c>.</summary>
    public string? Transport { get; init; }

    /// <summary><c>auto</c>, <c>ring</c>, <c>halving-doubling</c>, <c>tree</c> or <c>hierarchical</c>. Null: as the environment says, else <c>auto</c>.</summary>
    public string? Algorithm { get; init; }

    /// <summary>Largest size of a gradient bucket in MiB, above 0.</summary>
    public double BucketMib { get; init; } = 25;

    /// <summary>How gradients are compressed; checked. Null: not.</summary>
    public CompressionOptions? Compression { get; init; }

    /// <summary>What applies to <c>--strategy parameter-server</c> only.</summary>
    public ServerOptions Server { get; init; } = new();

    /// <summary>What applies to strategies that divide the model.</summary>
    public ModelParallelOptions ModelParallel { get; init; } = new();

    /// <summary>What applies to <c>--strategy local-sgd</c> only; checked.</summary>
    public LocalSgdOptions LocalSgd { get; init; } = new();

    /// <summary>What applies to <c>--strategy gossip</c> only.</summary>
    public GossipOptions Gossip { get; init; } = new();

    /// <summary>What applies to language models only.</summary>
    public LanguageOptions Language { get; init; } = new();

    /// <summary>Whether <c>--strategy gossip</c> is asynchronous stochastic gradient push.</summary>
    public bool Pushes { get; init; }

    /// <summary>Which data each worker has. Null: a part of each global batch of the whole.</summary>
    public DataPartition? Partition { get; init; }

    /// <summary>For each strategy with options of its own, those of them that were written on the command line.</summary>
    public IReadOnlyDictionary<string, IReadOnlyList<string>> Given { get; init; } = new Dictionary<string, IReadOnlyList<string>>();

    /// <summary>The coordinator of a running job with parameter servers, HOST:PORT. Null: the environment's, else a new job.</summary>
    public string? Coordinator { get; init; }

    /// <summary>RANK:FACTOR makes that rank's computation last FACTOR times as long.</summary>
    public string? Straggler { get; init; }

    /// <summary>How many times in all workers that were lost are started again, 0 or more; needs <see cref="Pushes"/>.</summary>
    public int Restarts { get; init; }

    /// <summary>Seeds the initial parameters and the order of the samples, 0 or more.</summary>
    public long Seed { get; init; }

    /// <summary>Where the run's files go. Null: <c>SKEIN_RUN_DIR</c>, else <c>runs/WORKLOAD-TIME</c>.</summary>
    public string? RunDirectory { get; init; }

    /// <summary>Whether rank 0 prints the summary as one JSON object on the last line of stdout.</summary>
    public bool Json { get; init; }

    /// <summary>Whether errors come with their stack trace and progress with every step.</summary>
    public bool Verbose { get; init; }
}

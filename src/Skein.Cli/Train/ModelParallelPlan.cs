using System.Globalization;
using Skein.Training;
using Skein.Training.Meshes;
using Skein.Training.Pipeline;

namespace Skein.Cli.Train;

/// <summary>How workers divide the model; checked.</summary>
internal sealed record ModelParallelPlan
{
    public const string Sharded = "sharded";
    public const string Pipeline = "pipeline";
    public const string Tensor = "tensor";
    public const string Mesh = "mesh";

    private const string Estimated = "estimated";
    private const string Profiled = "profiled";

    // As many as keep a pipeline three quarters full or more.
    private const int MicroBatchesPerStage = 4;

    public required MeshShape Shape { get; init; }

    /// <summary>What data-parallel workers divide; null: nothing.</summary>
    public required ZeroStage? Zero { get; init; }

    /// <summary>The pipeline's schedule; null without one.</summary>
    public required PipelineSchedule? Schedule { get; init; }

    /// <summary>Layers in each chunk of a pipeline; null: balanced.</summary>
    public required IReadOnlyList<int>? Split { get; init; }

    /// <summary>By which costs layers are shared out among stages.</summary>
    public required PipelineBalance Balance { get; init; }

    public required bool SequenceParallel { get; init; }

    public required bool ActivationCheckpointing { get; init; }

    public required bool OffloadOptimizer { get; init; }

    /// <summary>Whether no worker has the whole model between two steps.</summary>
    public bool DividesModel => Zero == ZeroStage.Parameters || Shape[MeshShape.Pipeline] > 1 || Shape[MeshShape.Tensor] > 1;

    public static bool Has(string strategy) => strategy is Sharded or Pipeline or Tensor or Mesh;

    /// <summary>Checks what was written for a strategy; null for one that does not divide the model.</summary>
    /// <exception cref="UsageException">Something is wrong or belongs to another strategy.</exception>
    public static ModelParallelPlan? Create(ModelParallelOptions options, string strategy, int worldSize)
    {
        if (options.Mesh is not null && strategy != Mesh) throw new UsageException($"--mesh needs --strategy {Mesh}");
        if (!Has(strategy))
        {
            Refuse(options.Zero is not null, "--zero", $"--strategy {Sharded} or {Mesh}");
            Refuse(options.Schedule is not null, "--schedule", $"--strategy {Pipeline} or {Mesh}");
            Refuse(options.MicroBatches is not null, "--micro-batches", $"--strategy {Pipeline} or {Mesh}");
            Refuse(options.Split is not null, "--split", $"--strategy {Pipeline} or {Mesh}");
            Refuse(options.SequenceParallel, "--sequence-parallel", $"--strategy {Tensor} or {Mesh}");
            Refuse(options.ActivationCheckpointing, "--activation-checkpointing", $"--strategy {Sharded}, {Pipeline}, {Tensor} or {Mesh}");
            Refuse(options.OffloadOptimizer, "--offload-optimizer", $"--strategy {Sharded} or {Mesh}");
            return null;
        }

        MeshShape shape = strategy switch
        {
            Sharded => new MeshShape(data: worldSize),
            Pipeline => new MeshShape(pipeline: worldSize),
            Tensor => new MeshShape(tensor: worldSize),
            _ => ParseMesh(options.Mesh ?? throw new UsageException($"--strategy {Mesh} needs --mesh, for example --mesh dp={worldSize},pp=1,tp=1"), worldSize),
        };
        ZeroStage? zero = strategy == Sharded ? options.Zero ?? ZeroStage.Parameters : options.Zero;
        bool pipelined = shape[MeshShape.Pipeline] > 1 || strategy == Pipeline;
        Refuse(zero is not null && strategy is not (Sharded or Mesh), "--zero", $"--strategy {Sharded} or {Mesh}");
        Refuse(options.Schedule is not null && !pipelined, "--schedule", "a pipeline: --strategy pipeline, or a mesh with pp above 1");
        Refuse(options.MicroBatches is not null && !pipelined, "--micro-batches", "a pipeline (elsewhere --gradient-accumulation splits a step)");
        Refuse(options.Split is not null && !pipelined, "--split", "a pipeline: --strategy pipeline, or a mesh with pp above 1");
        Refuse(options.SequenceParallel && shape[MeshShape.Tensor] == 1 && strategy != Tensor, "--sequence-parallel", "tensor parallel workers: --strategy tensor, or a mesh with tp above 1");
        Refuse(options.OffloadOptimizer && zero is null, "--offload-optimizer", "--zero");
        PipelineSchedule? schedule = pipelined ? ParseSchedule(options.Schedule) : null;
        return new ModelParallelPlan
        {
            Shape = shape,
            Zero = zero,
            Schedule = schedule,
            Split = options.Split is null or Estimated or Profiled ? null : ParseSplit(options.Split, shape[MeshShape.Pipeline], schedule!.Chunks),
            Balance = options.Split == Profiled ? PipelineBalance.Profiled : PipelineBalance.Estimated,
            SequenceParallel = options.SequenceParallel,
            ActivationCheckpointing = options.ActivationCheckpointing,
            OffloadOptimizer = options.OffloadOptimizer,
        };
    }

    /// <summary>Into how many micro-batches a step of <paramref name="share"/> samples for each data-parallel worker is split.</summary>
    public int MicroBatches(ModelParallelOptions options, int accumulation, int share)
    {
        if (Schedule is null) return accumulation;
        if (options.MicroBatches is { } chosen)
        {
            if (accumulation > 1) throw new UsageException($"--micro-batches is {chosen} and --gradient-accumulation {accumulation}: in a pipeline they are the same, so give one");
            return chosen >= 1 && chosen <= share ? chosen : throw new UsageException($"--micro-batches is {chosen}: give a whole number from 1 to {share}, the samples of a step");
        }

        return accumulation > 1 ? accumulation : Math.Min(share, MicroBatchesPerStage * Shape[MeshShape.Pipeline]);
    }

    private static void Refuse(bool wrong, string option, string needed)
    {
        if (wrong) throw new UsageException($"{option} needs {needed}");
    }

    private static MeshShape ParseMesh(string text, int worldSize)
    {
        try
        {
            var shape = MeshShape.Parse(text);
            shape.Validate(worldSize);
            return shape;
        }
        catch (Exception error) when (error is FormatException or ArgumentException)
        {
            throw new UsageException(error.Message);
        }
    }

    private static PipelineSchedule ParseSchedule(string? text)
    {
        try
        {
            return PipelineSchedule.Parse(text ?? "1f1b");
        }
        catch (FormatException error)
        {
            throw new UsageException(error.Message);
        }
    }

    private static int[] ParseSplit(string text, int stages, int chunks)
    {
        int[] layers = [.. text.Split(',').Select(part => int.TryParse(part, NumberStyles.None, CultureInfo.InvariantCulture, out int count) && count > 0
            ? count
            : throw new UsageException($"--split is '{text}': give {Estimated}, {Profiled}, or the number of layers of each stage (or of each of its chunks), for example 3,4"))];
        return layers.Length == stages * chunks
            ? layers
            : throw new UsageException($"--split is '{text}', the layers of {layers.Length} chunks, but there are {stages} stages * {chunks} chunks each = {stages * chunks}: give a number for each");
    }
}

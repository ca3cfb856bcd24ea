using System.CommandLine;
using Skein.Cli.Train;
using Skein.Training;

namespace Skein.Cli;

/// <summary>The options of <c>--strategy sharded, pipeline, tensor</c> and <c>mesh</c>.</summary>
internal static class ModelParallelSyntax
{
    private static readonly Option<int?> Zero = new("--zero") { HelpName = "STAGE", Description = "What is divided among data-parallel workers: 1 the optimizer's state, 2 also gradients, 3 also parameters [default: 3; of a mesh: nothing]" };
    private static readonly Option<string?> Mesh = new("--mesh") { HelpName = "M", Description = "Workers by dimension, for example dp=2,pp=2,tp=1" };
    private static readonly Option<string?> Schedule = new("--schedule") { HelpName = "S", Description = "Order of the micro-batches in a pipeline: gpipe, 1f1b, interleaved:V or zero-bubble [default: 1f1b]" };
    private static readonly Option<int?> MicroBatches = new("--micro-batches") { HelpName = "M", Description = "Micro-batches of a pipeline's step [default: 4 for each stage, if there are as many samples]" };
    private static readonly Option<string?> Split = new("--split") { HelpName = "S", Description = "How layers are shared out among a pipeline's stages: by estimated (the same in every run) or profiled (measured) cost, or as counts for each stage, for example 3,4 [default: estimated]" };
    private static readonly Option<bool> SequenceParallel = new("--sequence-parallel") { Description = "Tensor parallel: norms and dropout work on parts of the sequence" };
    private static readonly Option<bool> ActivationCheckpointing = new("--activation-checkpointing") { Description = "Keep only the inputs of layers, and run them again in the backward pass" };
    private static readonly Option<bool> OffloadOptimizer = new("--offload-optimizer") { Description = "Sharded: keep the optimizer's state in the host's memory" };

    public static IEnumerable<Option> All => [Zero, Mesh, Schedule, MicroBatches, Split, SequenceParallel, ActivationCheckpointing, OffloadOptimizer];

    public static ModelParallelOptions Read(ParseResult parsed) => new()
    {
        Zero = parsed.GetValue(Zero) is { } stage ? Enum.IsDefined((ZeroStage)stage) ? (ZeroStage)stage : throw new UsageException($"--zero is {stage}: give 1, 2 or 3") : null,
        Mesh = parsed.GetValue(Mesh),
        Schedule = parsed.GetValue(Schedule),
        MicroBatches = parsed.GetValue(MicroBatches),
        Split = parsed.GetValue(Split),
        SequenceParallel = parsed.GetValue(SequenceParallel),
        ActivationCheckpointing = parsed.GetValue(ActivationCheckpointing),
        OffloadOptimizer = parsed.GetValue(OffloadOptimizer),
    };
}

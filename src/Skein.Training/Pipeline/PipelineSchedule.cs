using System.Globalization;

namespace Skein.Training.Pipeline;

/// <summary>
/// In which order each stage of a pipeline computes its micro-batches forward and backward. Plain data: every rank makes the
/// same lists. Immutable.
/// </summary>
/// <remarks>
/// The model is cut into stages · <see cref="Chunks"/> consecutive chunks; stage s has the chunks s, s + stages,
/// s + 2 · stages, and so on. A list begins none of its operations before the operations that it needs, so that stages that
/// work through their lists never wait for each other in a circle.
/// </remarks>
public sealed record PipelineSchedule
{
    private enum Order
    {
        GPipe,
        OneForwardOneBackward,
        Interleaved,
        ZeroBubble,
    }

    // More than any model has layers, and few enough for no product of it to overflow.
    private const int MostChunks = 1024;

    private readonly Order order;

    private PipelineSchedule(Order order, int chunks = 1)
    {
        this.order = order;
        Chunks = chunks;
    }

    /// <summary>All forward passes, then all backward passes (Huang et al. 2019, "GPipe"): every micro-batch's activations are in memory at once.</summary>
    public static PipelineSchedule GPipe { get; } = new(Order.GPipe);

    /// <summary>
    /// 1F1B: stage s keeps at most stages - s micro-batches in flight, and then does one backward pass for each forward pass
    /// (Narayanan et al. 2019, "PipeDream"; with a flush after each step, Narayanan et al. 2021, section 2.2.1).
    /// </summary>
    public static PipelineSchedule OneForwardOneBackward { get; } = new(Order.OneForwardOneBackward);

    /// <summary>
    /// 1F1B whose weight gradients are computed apart, where a stage would otherwise wait: ZB-H1 (Qi et al. 2023, "Zero bubble
    /// pipeline parallelism", section 2.3). Stage s keeps at most as many micro-batches as there are stages.
    /// </summary>
    public static PipelineSchedule ZeroBubble { get; } = new(Order.ZeroBubble);

    /// <summary>How many chunks of the model each stage has.</summary>
    public int Chunks { get; }

    /// <summary>Whether backward passes are in two parts, <see cref="PipelineOperationKind.BackwardInput"/> and <see cref="PipelineOperationKind.BackwardWeight"/>.</summary>
    public bool SplitsBackward => order == Order.ZeroBubble;

    /// <summary>
    /// 1F1B over several chunks a stage, so that the pipeline fills and drains in steps of a chunk (Narayanan et al. 2021, "Efficient
    /// large-scale language model training on GPU clusters using Megatron-LM", section 2.2.2). Micro-batches go through in groups of
    /// as many as there are stages; the last one may be smaller.
    /// </summary>
    /// <param name="chunks">Chunks of each stage, from 1 to 1,024.</param>
    public static PipelineSchedule Interleaved(int chunks)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(chunks, 1);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(chunks, MostChunks);
        return new PipelineSchedule(Order.Interleaved, chunks);
    }

    /// <summary>Reads <c>gpipe</c>, <c>1f1b</c>, <c>interleaved:V</c> or <c>zero-bubble</c>.</summary>
    /// <exception cref="FormatException">It is none of them.</exception>
    public static PipelineSchedule Parse(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        const string Prefix = "interleaved:";
        if (text.StartsWith(Prefix, StringComparison.Ordinal)
            && int.TryParse(text.AsSpan(Prefix.Length), NumberStyles.None, CultureInfo.InvariantCulture, out int chunks) && chunks is >= 1 and <= MostChunks)
        {
            return Interleaved(chunks);
        }

        return text switch
        {
            "gpipe" => GPipe,
            "1f1b" => OneForwardOneBackward,
            "zero-bubble" => ZeroBubble,
            _ => throw new FormatException($"'{text}' is no pipeline schedule: give gpipe, 1f1b, interleaved:V with V from 1 to {MostChunks} chunks a stage, or zero-bubble"),
        };
    }

    /// <summary>What stage <paramref name="stage"/> does in one step, in order.</summary>
    /// <param name="stages">The number of stages, at least 1.</param>
    /// <param name="stage">From 0.</param>
    /// <param name="microBatches">The number of micro-batches, at least 0.</param>
    public IReadOnlyList<PipelineOperation> Operations(int stages, int stage, int microBatches)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(stages, 1);
        ArgumentOutOfRangeException.ThrowIfNegative(stage);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(stage, stages);
        ArgumentOutOfRangeException.ThrowIfNegative(microBatches);
        // Laid out for full groups of micro-batches. Without the operations of those that are missing in the last group, the others
        // keep their order, and still need nothing that comes later.
        int groups = (microBatches + stages - 1) / stages;
        int passes = Chunks * groups * stages;
        int ahead = Math.Min(passes, order switch
        {
            Order.GPipe => passes,
            Order.Interleaved => (2 * (stages - stage - 1)) + ((Chunks - 1) * stages),
            _ => stages - stage - 1,
        });
        // How much later than its input gradients a stage computes a micro-batch's weight gradients: it then keeps as many
        // micro-batches as the first stage, which has nothing to put off.
        int behind = SplitsBackward ? stage : 0;
        var operations = new List<PipelineOperation>((SplitsBackward ? 3 : 2) * Chunks * microBatches);
        for (int pass = 0; pass < passes + ahead + behind; pass++)
        {
            Add(PipelineOperationKind.Forward, pass);
            Add(SplitsBackward ? PipelineOperationKind.BackwardInput : PipelineOperationKind.Backward, pass - ahead);
            if (SplitsBackward) Add(PipelineOperationKind.BackwardWeight, pass - ahead - behind);
        }

        return operations;

        // A group goes through all chunks of a stage before the next one does.
        void Add(PipelineOperationKind kind, int pass)
        {
            if (pass < 0 || pass >= passes) return;
            (int group, int within) = Math.DivRem(pass, stages * Chunks);
            (int chunk, int offset) = Math.DivRem(within, stages);
            int microBatch = (group * stages) + offset;
            if (microBatch < microBatches) operations.Add(new PipelineOperation(kind, kind == PipelineOperationKind.Forward ? chunk : Chunks - 1 - chunk, microBatch));
        }
    }

    /// <summary>
    /// The part of a step in which a stage waits, on average: in closed form, where all chunks cost the same and communication
    /// nothing. (P - 1) / (V · M + P - 1) for P stages, M micro-batches and V chunks a stage; for zero-bubble, where the forward pass and
    /// both parts of the backward pass take equally long and M ≥ P, (P - 1) / (3 · M + P - 1). For interleaved with an M that P does not divide it is a bound
    /// from below. NaN without micro-batches.
    /// </summary>
    public double BubbleFraction(int stages, int microBatches)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(stages, 1);
        ArgumentOutOfRangeException.ThrowIfNegative(microBatches);
        if (microBatches == 0) return double.NaN;
        int work = SplitsBackward ? 3 * microBatches : Chunks * microBatches;
        return (stages - 1) / (double)(work + stages - 1);
    }

    /// <summary>As <see cref="Parse"/> reads it.</summary>
    public override string ToString() => order switch
    {
        Order.GPipe => "gpipe",
        Order.OneForwardOneBackward => "1f1b",
        Order.ZeroBubble => "zero-bubble",
        _ => string.Create(CultureInfo.InvariantCulture, $"interleaved:{Chunks}"),
    };
}

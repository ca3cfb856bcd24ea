using System.Diagnostics;
using Skein.Collectives;
using static TorchSharp.torch;

namespace Skein.Training.Sharding;

/// <summary>
/// Reduces units' gradients to the ranks' shards, piece by piece, through little memory: a piece is the same range of all
/// shards. In the background there are two pieces of memory in turn, so that one is filled while the other is under way. Not
/// thread-safe.
/// </summary>
internal sealed class GradientReducer : IDisposable
{
    private const int PieceElements = 1 << 20;

    private readonly ProcessGroup group;
    private readonly Slot[] slots;
    private readonly long piece;
    private int next;

    /// <param name="group">The ranks.</param>
    /// <param name="longestShard">Elements of the largest unit's shard.</param>
    /// <param name="overlap">Whether reductions run in the background.</param>
    public GradientReducer(ProcessGroup group, long longestShard, bool overlap)
    {
        this.group = group;
        piece = Math.Min(longestShard, PieceElements / group.WorldSize);
        slots = [.. Enumerable.Range(0, overlap ? 2 : 1).Select(_ => new Slot((int)piece * group.WorldSize, (int)piece))];
    }

    /// <summary>How long the caller has waited for other ranks.</summary>
    public TimeSpan WaitTime { get; private set; }

    /// <summary>Begins to average a unit's gradients; <see cref="Finish()"/> ends it. All ranks reduce the same units in the same order.</summary>
    public void Start(ShardedUnit unit)
    {
        for (long start = 0; start < unit.ShardLength; start += piece) Start(unit, start, Math.Min(start + piece, unit.ShardLength));
        unit.DropGradients();
        unit.IsReduced = true;
        if (slots.Length == 1) Finish();
    }

    /// <summary>Waits for what is under way, and adds it to the shards' gradients.</summary>
    public void Finish()
    {
        // The older one first, as in every rank.
        for (int i = 0; i < slots.Length; i++) Finish(slots[(next + i) % slots.Length]);
    }

    public void Dispose()
    {
        foreach (Slot slot in slots) slot.Dispose();
    }

    private void Start(ShardedUnit unit, long from, long to)
    {
        Slot slot = slots[next];
        next = (next + 1) % slots.Length;
        Finish(slot);
        int length = (int)(to - from);
        Memory<float> input = slot.InputBuffer.Memory[..(length * group.WorldSize)], output = slot.OutputBuffer.Memory[..length];
        using (Tensor copy = slot.Input.narrow(0, 0, input.Length)) unit.CopyGradients(copy, from, to);
        (slot.Unit, slot.From, slot.Length) = (unit, from, length);
        long start = Stopwatch.GetTimestamp();
        if (slots.Length > 1) slot.Pending = group.ReduceScatterAsync<float>(input, output, ReduceOperation.Average);
        else group.ReduceScatter<float>(input.Span, output.Span, ReduceOperation.Average);
        WaitTime += Stopwatch.GetElapsedTime(start);
    }

    private void Finish(Slot slot)
    {
        if (slot.Unit is not { } unit) return;
        slot.Unit = null;
        long start = Stopwatch.GetTimestamp();
        slot.Pending?.Wait();
        slot.Pending = null;
        WaitTime += Stopwatch.GetElapsedTime(start);
        using Tensor part = slot.Output.narrow(0, 0, slot.Length);
        unit.AddGradient(part, slot.From);
    }

    private sealed class Slot : IDisposable
    {
        private readonly UnitMemory input;
        private readonly UnitMemory output;

        public Slot(int inputLength, int outputLength)
        {
            input = new UnitMemory(inputLength, ScalarType.Float32, CPU);
            output = new UnitMemory(outputLength, ScalarType.Float32, CPU);
            InputBuffer = input.As<float>();
            OutputBuffer = output.As<float>();
        }

        public SharedBuffer<float> InputBuffer { get; }

        public SharedBuffer<float> OutputBuffer { get; }

        public Tensor Input => input.Host;

        public Tensor Output => output.Host;

        public ShardedUnit? Unit { get; set; }

        public long From { get; set; }

        public int Length { get; set; }

        public CollectiveHandle? Pending { get; set; }

        public void Dispose()
        {
            Pending?.AsTask().ContinueWith(static _ => { }, TaskScheduler.Default).Wait();
            input.Dispose();
            output.Dispose();
        }
    }
}

namespace Skein.Training.Pipeline;

/// <summary>What a stage has measured of its steps: how long passes take in each chunk of the model, and how much of the time it waited. Not thread-safe.</summary>
internal sealed class StepTimes(int chunks)
{
    // The first steps compile code and touch memory for the first time.
    private const int Skipped = 2;
    private const int Kinds = 3;

    private readonly double[] seconds = new double[Kinds * chunks];
    private readonly double[] means = new double[Kinds * chunks];
    private readonly long[] counts = new long[Kinds * chunks];
    private double lastBubble;
    private double bubbles;
    private long steps;
    private long averaged;

    /// <summary>The numbers that the stages add up in every step.</summary>
    public static int SharedLength(int chunks) => 1 + (Kinds * chunks);

    /// <summary>The average over steps and stages of the part of a step that a stage waited; NaN before there are any.</summary>
    public double BubbleFraction => averaged == 0 ? double.NaN : bubbles / averaged;

    /// <summary>The mean costs of a micro-batch in each chunk, in seconds.</summary>
    public IReadOnlyList<PipelineCosts> Costs => [.. Enumerable.Range(0, chunks).Select(chunk => new PipelineCosts(means[Kinds * chunk], means[(Kinds * chunk) + 1], means[(Kinds * chunk) + 2]))];

    /// <summary>Counts one pass through one of this stage's chunks.</summary>
    public void Add(PipelineOperationKind kind, int chunk, TimeSpan computed)
    {
        if (steps < Skipped) return;
        int index = (Kinds * chunk) + kind switch
        {
            PipelineOperationKind.Forward => 0,
            PipelineOperationKind.BackwardWeight => 2,
            _ => 1,
        };
        seconds[index] += computed.TotalSeconds;
        counts[index]++;
    }

    /// <summary>Ends a step.</summary>
    public void EndStep(TimeSpan waited, TimeSpan whole)
    {
        steps++;
        lastBubble = waited / whole;
    }

    /// <summary>Writes what the other stages want to know: of the steps before this one.</summary>
    public void Write(Span<double> shared)
    {
        shared[0] = lastBubble;
        for (int i = 0; i < seconds.Length; i++) shared[i + 1] = counts[i] == 0 ? 0 : seconds[i] / counts[i];
    }

    /// <summary>Reads the sum over <paramref name="stages"/> stages of what they wrote.</summary>
    public void Read(ReadOnlySpan<double> shared, int stages)
    {
        if (steps <= Skipped) return;
        bubbles += shared[0] / stages;
        averaged++;
        shared[1..].CopyTo(means);
    }
}

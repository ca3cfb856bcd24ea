using System.Diagnostics;
using System.Numerics;
using System.Numerics.Tensors;
using Skein.Collectives;
using Skein.Training.Compression.AllReduce;
using Skein.Training.Compression.Codecs;

namespace Skein.Training.Compression;

/// <summary>
/// Averages one bucket's gradients over the ranks, compressed, and remembers on each rank what has not been sent yet: error
/// feedback (Karimireddy et al. 2019, algorithm 2) and, where wanted, momentum before compression (Lin et al. 2018,
/// algorithm 1).
/// </summary>
/// <remarks>
/// An average's effect on the state is settled apart, so that a step which turns out to be unusable on any rank leaves no
/// trace on all of them. One thread at a time.
/// </remarks>
internal sealed class CompressedAverage
{
    private const int ObservationInterval = 16;

    private readonly ProcessGroup group;
    private readonly CompressedAllReduce allReduce;
    private readonly CompressionOptions options;
    private readonly int length;
    private readonly bool feedback;
    private float[] residual;
    private float[] kept;
    private float[] velocity;
    private float[] nextVelocity;
    private long averages;
    private long observations;
    private long ticks;
    private double errors;

    /// <param name="group">The ranks.</param>
    /// <param name="spec">The method; not auto.</param>
    /// <param name="options">What else is to be done.</param>
    /// <param name="places">Where the parameters lie.</param>
    /// <param name="length">The number of values, which are the parameters' and no others.</param>
    /// <param name="index">Tells this rank's averages apart, for other random choices.</param>
    public CompressedAverage(
        ProcessGroup group, CompressionSpec spec, CompressionOptions options, IEnumerable<ParameterPlace> places, int length, int index)
    {
        this.group = group;
        this.options = options;
        this.length = length;
        Spec = spec;
        allReduce = Create(group, spec, options, places, length, index);
        feedback = allReduce.NeedsFeedback;
        residual = feedback ? new float[length] : [];
        kept = GC.AllocateArray<float>(length, pinned: true);
        velocity = options.Momentum > 0 ? new float[length] : [];
        nextVelocity = options.Momentum > 0 ? new float[length] : [];
    }

    public CompressionSpec Spec { get; }

    /// <summary>What of the last average's values was not sent, until it is settled.</summary>
    public ReadOnlySpan<float> Kept => kept;

    public CompressionStatistics Statistics => new(
        allReduce.BytesSent, averages * 2 * (group.WorldSize - 1) * length * sizeof(float) / group.WorldSize,
        Stopwatch.GetElapsedTime(0, ticks) - allReduce.CommunicationTime, observations == 0 ? 0 : errors / observations);

    /// <summary>What several have done together.</summary>
    public static CompressionStatistics Sum(IReadOnlyList<CompressedAverage> averages)
    {
        CompressionStatistics[] all = [.. averages.Select(static one => one.Statistics)];
        double values = averages.Sum(static one => (double)one.length);
        return new CompressionStatistics(
            all.Sum(static one => one.BytesSent),
            all.Sum(static one => one.UncompressedBytes),
            TimeSpan.FromTicks(all.Sum(static one => one.ComputeTime.Ticks)),
            values > 0 ? averages.Zip(all, (one, statistics) => statistics.RelativeError * one.length / values).Sum() : 0);
    }

    /// <summary>Replaces this rank's gradients by their average, or what of it has got through. Call <see cref="Settle"/> after it.</summary>
    /// <returns>False when this rank's gradients are not finite, or beyond what codecs take; it has then sent zeros for them.</returns>
    public bool Average(Span<float> gradients)
    {
        long start = Stopwatch.GetTimestamp();
        bool finite = gradients.IsEmpty || MathF.Abs(TensorPrimitives.MaxMagnitude<float>(gradients)) <= Codec.LargestValue;
        if (!finite) gradients.Clear();
        if (options.ClipNorm is { } norm) Clip(gradients, norm / Math.Sqrt(group.WorldSize));
        if (velocity.Length > 0)
        {
            TensorPrimitives.MultiplyAdd(velocity, (float)options.Momentum, gradients, nextVelocity);
            nextVelocity.CopyTo(gradients);
        }

        if (feedback) TensorPrimitives.Add(gradients, residual, gradients);
        // What is not needed later is looked at now and then only.
        bool observed = feedback || averages % ObservationInterval == 0;
        double wanted = observed ? TensorPrimitives.Norm<float>(gradients) : 0;
        allReduce.Average(gradients, observed ? kept : default);
        averages++;
        if (observed)
        {
            observations++;
            if (wanted > 0) errors += TensorPrimitives.Norm<float>(kept) / wanted;
        }

        if (velocity.Length > 0 && allReduce.IsSparse) MaskVelocity();
        ticks += Stopwatch.GetTimestamp() - start;
        return finite;
    }

    /// <summary>Makes what the last average left behind the state, or, if the step is not to count on any rank, forgets it.</summary>
    public void Settle(bool apply)
    {
        allReduce.Settle(apply);
        if (!apply) return;
        if (feedback) (residual, kept) = (kept, residual);
        (velocity, nextVelocity) = (nextVelocity, velocity);
    }

    /// <summary>Writes the state between two averages.</summary>
    public void Save(BinaryWriter writer)
    {
        writer.Write($"{Spec}");
        writer.Write(length);
        allReduce.Save(writer);
        foreach (float value in residual) writer.Write(value);
        foreach (float value in velocity) writer.Write(value);
    }

    /// <summary>Reads what <see cref="Save"/> wrote.</summary>
    /// <exception cref="InvalidDataException">It was of another method or length.</exception>
    public void Load(BinaryReader reader)
    {
        string spec = reader.ReadString();
        int saved = reader.ReadInt32();
        if (spec != $"{Spec}" || saved != length) throw new InvalidDataException($"the saved state is of {spec} over {saved} values, but here is {Spec} over {length}");
        allReduce.Load(reader);
        foreach (ref float value in residual.AsSpan()) value = reader.ReadSingle();
        foreach (ref float value in velocity.AsSpan()) value = reader.ReadSingle();
    }

    private static CompressedAllReduce Create(
        ProcessGroup group, CompressionSpec spec, CompressionOptions options, IEnumerable<ParameterPlace> places, int length, int index)
    {
        // Choices that ranks have to share come from the bucket's seed, others from one that is the rank's own as well.
        long shared = unchecked((options.Seed * 1_000_003) + index);
        long own = unchecked((shared * 1_000_003) + group.Rank + 1);
        return spec.Method switch
        {
            CompressionMethod.None => new PlainAllReduce(group),
            CompressionMethod.Float16 => new Float16AllReduce(group, length),
            CompressionMethod.BFloat16 => new ReducedAllReduce<BFloat16>(group, new BFloat16Codec(), 0, length, needsFeedback: false),
            CompressionMethod.RandomK => new ReducedAllReduce<float>(group, spec.CreateCodec(shared), RandomKCodec.Head, length, needsFeedback: true),
            CompressionMethod.TopK => new GatheredAllReduce(group, new TopKCodec(spec.Ratio, options.WarmupSteps), length),
            CompressionMethod.PowerSgd => new PowerSgdAllReduce(group, places, spec.Rank, shared),
            CompressionMethod.Int8 or CompressionMethod.Sign => new TwoPassAllReduce(group, spec.CreateCodec(own), length, needsFeedback: true),
            CompressionMethod.Qsgd or CompressionMethod.SignMajority => new TwoPassAllReduce(group, spec.CreateCodec(own), length, needsFeedback: false),
            _ => throw new NotSupportedException($"compression {spec} has to be replaced by the method it chooses"),
        };
    }

    private static void Clip(Span<float> values, double most)
    {
        double norm = TensorPrimitives.Norm<float>(values);
        if (norm > most) TensorPrimitives.Multiply(values, (float)(most / norm), values);
    }

    /// <summary>Momentum stops where a value has been sent, or it would push stale values on (Lin et al. 2018, "momentum factor masking").</summary>
    private void MaskVelocity()
    {
        // A value of which nothing was sent is kept to the last bit.
        int i = 0;
        for (; i <= length - Vector<float>.Count; i += Vector<float>.Count)
        {
            var next = new Vector<float>(nextVelocity, i);
            Vector<int> unsent = Vector.Equals(next + new Vector<float>(residual, i), new Vector<float>(kept, i));
            Vector.ConditionalSelect(unsent, next, Vector<float>.Zero).CopyTo(nextVelocity, i);
        }

        for (; i < length; i++)
        {
            if (nextVelocity[i] + residual[i] != kept[i]) nextVelocity[i] = 0;
        }
    }
}

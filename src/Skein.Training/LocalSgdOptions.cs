using Skein.Training.Compression;

namespace Skein.Training;

/// <summary>How often ranks that train by themselves meet, and what they do then. Immutable; the same on every rank.</summary>
public sealed record LocalSgdOptions
{
    // A step with it is still a number.
    private const double LargestLearningRate = 1e30;

    /// <summary>H, the optimizer steps of each rank between two meetings, 1 or more. Default 16.</summary>
    public int LocalSteps { get; init; } = 16;

    /// <summary>
    /// The first steps of training, in which the ranks meet after every step (Lin et al. 2020, "Don't use large
    /// mini-batches, use local SGD": post-local SGD). Default 0.
    /// </summary>
    public long SynchronousSteps { get; init; }

    /// <summary>
    /// The outer optimizer's learning rate, above 0 and at most 1e30: what part of the ranks' mean difference is applied. Default
    /// 1, which with <see cref="OuterMomentum"/> 0 is the average of the ranks' parameters.
    /// </summary>
    public double OuterLearningRate { get; init; } = 1;

    /// <summary>The outer optimizer's Nesterov momentum, from 0 to below 1. Default 0.</summary>
    public double OuterMomentum { get; init; }

    /// <summary>
    /// Into how many parts of about the same size the parameters are cut, each of which meets every
    /// <see cref="LocalSteps"/> steps, at a step of its own: the most that is sent after one step falls by as much
    /// (Douillard et al. 2025, "Streaming DiLoCo"). From 1 to <see cref="LocalSteps"/>. Default 1.
    /// </summary>
    public int Fragments { get; init; } = 1;

    /// <summary>
    /// How the ranks' differences are compressed when they meet, all parameters in the same way; no momentum is applied
    /// before. Null (the default): not at all.
    /// </summary>
    public CompressionOptions? Compression { get; init; }

    /// <summary>
    /// DiLoCo (Douillard et al. 2023): Nesterov momentum 0.9 and learning rate 0.7 outside; inside, the ranks run AdamW.
    /// </summary>
    /// <param name="localSteps">H.</param>
    public static LocalSgdOptions DiLoCo(int localSteps) => new() { LocalSteps = localSteps, OuterLearningRate = 0.7, OuterMomentum = 0.9 };

    /// <summary>Checks that the numbers are in range.</summary>
    /// <exception cref="ArgumentException">One is not; says which, its value, and the range.</exception>
    public void Validate()
    {
        if (LocalSteps < 1) throw new ArgumentException($"the number of local steps is {LocalSteps}: give a whole number from 1");
        if (SynchronousSteps < 0) throw new ArgumentException($"the number of synchronous steps is {SynchronousSteps}: give a whole number from 0");
        if (OuterLearningRate is not (> 0 and <= LargestLearningRate))
        {
            throw new ArgumentException(
                $"the outer learning rate is {OuterLearningRate}: give a number above 0 and at most {LargestLearningRate}");
        }

        if (OuterMomentum is not (>= 0 and < 1)) throw new ArgumentException($"the outer momentum is {OuterMomentum}: give a number from 0 to below 1");
        if (Fragments < 1 || Fragments > LocalSteps) throw new ArgumentException($"the number of fragments is {Fragments}: give a whole number from 1 to the number of local steps, {LocalSteps}");
        if (Compression is null) return;
        Compression.Validate();
        if (Compression.Rules.Specs.Count() > 1) throw new ArgumentException($"the compression is {Compression.Rules}: ranks that meet compress all parameters in one way");
        if (Compression.Rules.Common.Method == CompressionMethod.Auto) throw new ArgumentException("the compression is auto: ranks that meet need one method");
        if (Compression.Momentum != 0) throw new ArgumentException($"the momentum before compression is {Compression.Momentum}: a difference of parameters has momentum in it");
    }
}

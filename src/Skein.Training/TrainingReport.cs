namespace Skein.Training;

/// <summary>What one optimizer step did; handed to <see cref="Trainer.StepCompleted"/> on the training thread.</summary>
/// <param name="Step">The number of steps done in this fit, this one included.</param>
/// <param name="Epoch">The epoch, from 0, counted over all fits of the trainer.</param>
/// <param name="Loss">The mean loss over the global batch, before the update; 0 where nothing in it had a weight, so that nothing was updated.</param>
/// <param name="Samples">The size of the global batch.</param>
/// <param name="LearningRate">The first parameter group's learning rate.</param>
/// <param name="GradientNorm">The gradients' norm before clipping; null when they are not clipped.</param>
/// <param name="ComputeTime">This rank's time without communication.</param>
/// <param name="CommunicationTime">How long this rank waited for others.</param>
public readonly record struct StepInfo(
    long Step, int Epoch, float Loss, int Samples, double LearningRate, double? GradientNorm, TimeSpan ComputeTime, TimeSpan CommunicationTime);

/// <summary>What a fit did. Losses are global, times are this rank's.</summary>
public sealed record TrainingReport
{
    /// <summary>How many losses <see cref="LossHistory"/> keeps.</summary>
    public const int LossHistoryLimit = 10_000;

    /// <summary>The number of optimizer steps, with those of the others before this rank came into the fit.</summary>
    public required long Steps { get; init; }

    /// <summary>The number of whole epochs.</summary>
    public required int Epochs { get; init; }

    /// <summary>Samples used, over all ranks.</summary>
    public required long Samples { get; init; }

    /// <summary>The mean loss per sample over the last epoch, or the part of it that was run.</summary>
    public required double TrainLoss { get; init; }

    /// <summary>One number per step: the mean loss over the global batch before that step's update. The last <see cref="LossHistoryLimit"/>.</summary>
    public required IReadOnlyList<float> LossHistory { get; init; }

    /// <summary>From the first step's start to the last one's end.</summary>
    public required TimeSpan WallTime { get; init; }

    /// <summary>The part of <see cref="WallTime"/> that was not communication.</summary>
    public required TimeSpan ComputeTime { get; init; }

    /// <summary>The part of <see cref="WallTime"/> that this rank waited for others.</summary>
    public required TimeSpan CommunicationTime { get; init; }

    /// <summary><see cref="Samples"/> per second of <see cref="WallTime"/>.</summary>
    public double SamplesPerSecond => WallTime > TimeSpan.Zero ? Samples / WallTime.TotalSeconds : 0;
}

/// <summary>What an evaluation found, over all ranks.</summary>
/// <param name="Loss">The mean loss per sample, or per unit of weight of a <see cref="LossSum"/>; NaN if all of it has none.</param>
/// <param name="Accuracy">The share of samples with a label from 0 whose largest output it is; null when labels are not class numbers.</param>
/// <param name="Samples">The number of samples.</param>
public sealed record EvaluationReport(double Loss, double? Accuracy, long Samples);

/// <summary>A fit was cancelled. Its report tells what had been done by then.</summary>
public sealed class TrainingCanceledException : OperationCanceledException
{
    internal TrainingCanceledException(string message, TrainingReport report, CancellationToken cancellationToken)
        : base(message, cancellationToken) => Report = report;

    /// <summary>What the fit did before it was cancelled.</summary>
    public TrainingReport Report { get; }
}

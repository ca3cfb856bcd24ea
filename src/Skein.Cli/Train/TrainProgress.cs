using System.Diagnostics;
using Skein.Training;

namespace Skein.Cli.Train;

/// <summary>Follows the steps of rank 0: every one in <c>metrics.jsonl</c>, now and then one on stderr.</summary>
internal sealed class TrainProgress(RunDirectory directory, int epochs, bool everyStep)
{
    private static readonly TimeSpan Interval = TimeSpan.FromSeconds(2);
    private readonly long start = Stopwatch.GetTimestamp();
    private TimeSpan due = Interval;
    private long samples;

    public void Report(StepInfo step)
    {
        TimeSpan now = Stopwatch.GetElapsedTime(start);
        directory.AddMetrics(new
        {
            step.Step,
            step.Epoch,
            step.Loss,
            step.LearningRate,
            step.Samples,
            ElapsedSeconds = now.TotalSeconds,
            ComputeSeconds = step.ComputeTime.TotalSeconds,
            CommunicationSeconds = step.CommunicationTime.TotalSeconds,
        });
        samples += step.Samples;
        if (!everyStep && now < due) return;
        due = now + Interval;
        Console.Error.WriteLine($"epoch {step.Epoch + 1}/{epochs}  step {step.Step}  loss {step.Loss:0.0000}  {samples / now.TotalSeconds:0} samples/s");
    }
}

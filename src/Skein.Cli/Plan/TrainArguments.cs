using Skein.Cli.Train;
using Skein.Training.Planning;

namespace Skein.Cli.Plan;

/// <summary>The command that trains by a plan.</summary>
internal static class TrainArguments
{
    public static string Command(ParallelPlan plan, PlanOptions options) => string.Join(' ', Of(plan, options).Prepend("skein").Select(Quote));

    public static IEnumerable<string> Of(ParallelPlan plan, PlanOptions options) =>
        ["train", .. options.TrainArguments, .. options.Workers > 1 ? ["--workers", $"{options.Workers}", .. Strategy(plan)] : Array.Empty<string>()];

    private static IEnumerable<string> Strategy(ParallelPlan plan)
    {
        (int data, int stages, int tensor) = (plan.Data, plan.Stages, plan.Tensor);
        string strategy = (data > 1, stages > 1, tensor > 1) switch
        {
            (true, false, false) => plan.Zero is null ? TrainPlan.DataParallel : ModelParallelPlan.Sharded,
            (false, true, false) => ModelParallelPlan.Pipeline,
            (false, false, true) => ModelParallelPlan.Tensor,
            _ => ModelParallelPlan.Mesh,
        };
        yield return "--strategy";
        yield return strategy;
        if (strategy == ModelParallelPlan.Mesh)
        {
            yield return "--mesh";
            yield return plan.Mesh.ToString();
        }

        if (plan.Zero is { } zero)
        {
            yield return "--zero";
            yield return $"{(int)zero}";
        }

        if (plan.Schedule is null) yield break;
        yield return "--schedule";
        yield return plan.Schedule.ToString();
        yield return "--micro-batches";
        yield return $"{plan.MicroBatches}";
    }

    private static string Quote(string argument) => argument.All(static letter => char.IsAsciiLetterOrDigit(letter) || "-_./:=,".Contains(letter, StringComparison.Ordinal)) ? argument : $"'{argument.Replace("'", "'\\''", StringComparison.Ordinal)}'";
}

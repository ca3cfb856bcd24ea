using System.CommandLine;
using Skein.Cli.LibTorch;
using Skein.Cli.Plan;
using Skein.Collectives.Rendezvous;
using Skein.Training.Planning;

namespace Skein.Cli;

/// <summary>
/// <c>skein plan</c>: measures the model and this machine in processes of this same command, predicts what each way to share the training takes,
/// and ranks them.
/// </summary>
internal static class PlanCommand
{
    public static Command Create() => PlanSyntax.Create(RunAsync);

    private static async Task<int> RunAsync(PlanOptions options)
    {
        if (LauncherEnvironment.HasRank()) return await PlanWorker.RunAsync(options);
        await LibTorchFetch.EnsureLoadedAsync();
        ModelProfile profile = await Measurements.ProfileAsync(options);
        CollectiveCosts collectives = await Measurements.CollectivesAsync(options, sizeof(float) * profile.ParameterCount);
        int batch = options.Training.BatchSize;
        (IReadOnlyList<ParallelPlan> possible, IReadOnlyList<ImpossiblePlan> impossible) = PlanCandidates.Of(profile, options.Workers, batch);
        if (possible.Count == 0) throw new InvalidOperationException($"{options.Workers} workers cannot share this training: {string.Join("; ", impossible.Select(static entry => $"{entry.Plan.Mesh}: {entry.Reason}"))}");

        IReadOnlyList<PlanPrediction> ranked = Planner.Rank(profile, collectives, possible, batch, options.MemoryBytes);
        PlanPrediction best = ranked[0];
        bool fits = best.MemoryBytes <= options.MemoryBytes;
        PlanCheck? check = fits && options.CheckSteps is { } steps ? await TrialRun.CheckAsync(best, options, steps) : null;
        var report = new PlanReport(
            options.Training.Workload.Name, options.Training.Model, options.Workers, options.MemoryBytes, batch,
            [.. ranked.Select(prediction => PlanReport.Row(prediction, options))],
            options.Verbose ? [.. impossible.Select(static entry => new ImpossibleRow(entry.Plan.Mesh.ToString(), (int?)entry.Plan.Zero, entry.Reason))] : null,
            check);
        if (options.Json) Console.WriteLine(report.ToJson());
        else report.WriteForPeople(Console.Out, options.Verbose);
        return fits
            ? 0
            : throw new InvalidOperationException(
                $"nothing fits into {ByteSize.Format(options.MemoryBytes)} a worker: the smallest, {best.Plan}, needs {ByteSize.Format(best.MemoryBytes)}, {ByteSize.Format(best.MemoryBytes - options.MemoryBytes)} more; use more workers or a smaller --batch-size");
    }
}

using System.Text.Json;
using Skein.Cli.LibTorch;
using Skein.Cli.Train;
using Skein.Collectives;
using Skein.Collectives.Rendezvous;
using Skein.Training.Optimizers;
using Skein.Training.Planning;
using Skein.Training.TensorParallelism;
using Skein.Workloads;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Cli.Plan;

/// <summary>One of the processes that measure the model for <c>skein plan</c>; it has the environment and the threads of a worker.</summary>
internal static class PlanWorker
{
    public const string ProfileFile = "profile.json";

    public static async Task<int> RunAsync(PlanOptions options)
    {
        TrainPlan training = options.Training;
        await LibTorchFetch.EnsureLoadedAsync();
        using WorkloadData data = await training.Workload.LoadDataAsync(CancellationToken.None);
        using nn.Module<Tensor, Tensor> model = training.Workload.CreateModel(training.Model, training.Seed);
        await using ProcessGroup group = await ProcessGroup.InitializeAsync(LauncherEnvironment.Read());
        TensorParallelPlan? rules = training.Workload.Choice(training.Model).TensorPlan?.Invoke(model);
        ModelProfile profile = await ModelProfiler.MeasureAsync(
            group, model, training.Workload.Loss, data.Train, parameters => CreateOptimizer(training, parameters), rules, Math.Max(2, training.BatchSize / options.Workers));
        if (group.Rank == 0)
        {
            string directory = Environment.GetEnvironmentVariable("SKEIN_RUN_DIR") ?? throw new InvalidOperationException("SKEIN_RUN_DIR is not set: skein plan starts its own workers, and runs in no other job");
            await File.WriteAllTextAsync(Path.Combine(directory, ProfileFile), JsonSerializer.Serialize(profile with { MayBeDivided = training.Workload.Evaluate is null }));
        }

        return 0;
    }

    // Their settings do not change what a step takes.
    private static optim.Optimizer CreateOptimizer(TrainPlan training, IReadOnlyList<Parameter> parameters) => training.Optimizer switch
    {
        "sgd" => optim.SGD(parameters, training.LearningRate),
        "momentum" => optim.SGD(parameters, training.LearningRate, momentum: TrainPlan.Momentum),
        "adam" => optim.Adam(parameters, training.LearningRate),
        _ => new DistributedAdam(parameters, training.LearningRate),
    };
}

using Skein.Training;
using Skein.Training.Data;
using Skein.Training.Meshes;
using Skein.Training.Pipeline;
using Skein.Training.TensorParallelism;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Cli.Train;

/// <summary>Puts together the strategies of the dimensions of a mesh, from the samples inwards: tensor, then data, around which pipeline.</summary>
internal static class ModelParallelStrategy
{
    public static Strategy Create(TrainPlan plan, DeviceMesh mesh, nn.Module<Tensor, Tensor> model, InMemoryDataset data)
    {
        ModelParallelPlan divided = plan.ModelParallel!;
        bool tensors = mesh.Shape[MeshShape.Tensor] > 1 || plan.Strategy == ModelParallelPlan.Tensor;
        // Before anything stands in the place of a layer.
        TensorParallelPlan? rules = tensors ? plan.Workload.Choice(plan.Model).TensorPlan!(model) with { SequenceParallel = divided.SequenceParallel } : null;
        if (divided.ActivationCheckpointing) ActivationCheckpointing.Apply(model);
        // The order in which they apply to the model: cut into stages, each stage's layers cut, what is left replicated or sharded.
        ReplicaStrategy strategy = divided.Zero is { } stage
            ? new ShardedDataParallel(mesh[MeshShape.Data], new ShardedOptions { Stage = stage, OffloadOptimizer = divided.OffloadOptimizer })
            : new DataParallel(mesh[MeshShape.Data], new DataParallelOptions { BucketBytes = plan.BucketBytes, Compression = plan.Compression });
        if (rules is not null) strategy = new TensorParallel(mesh[MeshShape.Tensor], rules, strategy);
        if (divided.Schedule is not { } schedule) return strategy;
        return new PipelineParallel(
            mesh[MeshShape.Pipeline],
            new PipelineOptions
            {
                Schedule = schedule,
                LayersPerChunk = divided.Split,
                Balance = divided.Balance,
                Sample = Sample(model, data, Math.Max(1, plan.BatchSize / plan.DataWorkers / plan.GradientAccumulation)),
            },
            strategy);
    }

    private static Tensor Sample(nn.Module<Tensor, Tensor> model, InMemoryDataset data, int count)
    {
        Parameter first = model.parameters().First();
        using Tensor indices = arange(Math.Min(count, data.Count));
        Tensor features = data.Gather(indices, first.device).Features;
        return features.is_floating_point() ? features.to(first.dtype) : features;
    }
}

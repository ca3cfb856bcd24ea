using Skein.Collectives;
using Skein.Training.Data;
using Skein.Training.Meshes;
using Skein.Training.TensorParallelism;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.Tests.Meshes;

/// <summary>Tied and frozen parameters, unfrozen later, and losses over what counts, where ranks divide a model and share out the batch at once.</summary>
public class UserModelMeshTests
{
    // The embedding is on the first stage, the head on the last.
    private static Sequential Tied()
    {
        Embedding embedding = nn.Embedding(10, 16);
        Linear head = nn.Linear(16, 10, hasBias: false), middle = nn.Linear(16, 16);
        head.weight = embedding.weight!;
        middle.bias!.requires_grad = false;
        return nn.Sequential(("embedding", embedding), ("middle", middle), ("tanh", nn.Tanh()), ("last", nn.Linear(16, 16)), ("head", head));
    }

    private static Sequential Wide()
    {
        Linear second = nn.Linear(32, 16);
        foreach (Parameter parameter in second.parameters()) parameter.requires_grad = false;
        return nn.Sequential(nn.Linear(20, 32), nn.Tanh(), second, nn.Tanh(), nn.Linear(16, 5));
    }

    private static InMemoryDataset Successors()
    {
        Tensor ids = Models.Seeded(5, static () => randint(0, 10, [48], dtype: ScalarType.Int64));
        return new InMemoryDataset(ids, ((ids + 1) % 10).masked_fill(ids.gt(5), -100));
    }

    private static InMemoryDataset Labelled()
    {
        InMemoryDataset data = Models.Data(count: 48);
        data.Labels.masked_fill_(data.Labels.gt(3), -100);
        return data;
    }

    private static Strategies.Training Training(Func<Sequential> model, Func<InMemoryDataset> data) => new()
    {
        Model = model,
        Data = data,
        LossSum = static (output, labels) => LossSum.CrossEntropy(output, labels),
        Optimizer = static parameters => optim.SGD(parameters, 0.05, momentum: 0.9, weight_decay: 0.01),
        Accumulation = 2,
        MaxGradientNorm = 0.5,
        Epochs = 2,
        Fits =
        [
            static (_, _) => { },
            static (model, _) =>
            {
                foreach (Parameter parameter in model.parameters()) parameter.requires_grad = true;
            },
        ],
    };

    public static TheoryData<string> Copies => ["ddp", "overlap", "zero1", "zero2", "zero3"];

    [Theory]
    [MemberData(nameof(Copies))]
    public async Task Pipelines_of_copies_train_as_one_process_does(string copies)
    {
        Strategies.Training training = Training(Tied, Successors);
        await Compare(training, new MeshShape(data: 2, pipeline: 2), mesh => new PipelineParallel(mesh[MeshShape.Pipeline], inner: (ReplicaStrategy)Strategies.Create(copies, mesh[MeshShape.Data])));
    }

    [Theory]
    [MemberData(nameof(Copies))]
    public async Task Copies_of_tensor_groups_train_as_one_process_does(string copies)
    {
        Strategies.Training training = Training(Wide, Labelled);
        await Compare(training, new MeshShape(data: 2, tensor: 2), mesh =>
        {
            using Sequential plan = Models.Seeded(1, Wide);
            return new TensorParallel(mesh[MeshShape.Tensor], TensorParallelPlan.Mlp(plan), (ReplicaStrategy)Strategies.Create(copies, mesh[MeshShape.Data]));
        });
    }

    private static async Task Compare(Strategies.Training training, MeshShape shape, Func<DeviceMesh, Strategy> create)
    {
        Strategies.Outcome single = await (training with { Accumulation = 1 }).Run(new SingleProcess());
        Strategies.Outcome[] ranks = await RankThreads.Run(4, async (ProcessGroup group) =>
        {
            await using DeviceMesh mesh = await DeviceMesh.CreateAsync(group, shape);
            return await training.Run(create(mesh));
        });
        Strategies.AssertSame(single, ranks, 1e-5);
    }
}

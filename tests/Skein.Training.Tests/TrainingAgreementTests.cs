using Skein.Collectives;
using Skein.Training.Data;
using Skein.Training.Gradients;
using Skein.Training.Meshes;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.Tests;

/// <summary>What ranks have to have in common is compared before the first step, and named.</summary>
public class TrainingAgreementTests
{
    private const string OtherCount = "the number of samples is 96 on rank 0, but 95 on rank 1";

    public static TheoryData<string, string, string> Differences
    {
        get
        {
            var data = new TheoryData<string, string, string>();
            foreach (string strategy in new[] { "ddp", "sharded", "pipeline", "local", "gossip" })
            {
                data.Add(strategy, "seed", "the seed is 3 on ranks 0, 2, but 4 on rank 1");
                data.Add(strategy, "batch", "the batch size is 24 on ranks 0, 2, but 12 on rank 1");
                data.Add(strategy, "epochs", "the number of epochs is 2 on ranks 0, 2, but 3 on rank 1");
                data.Add(strategy, "steps", "the most steps is none on ranks 0, 2, but 7 on rank 1");
                data.Add(strategy, "count", "the number of samples is 96 on ranks 0, 2, but 72 on rank 1");
                data.Add(strategy, "values", "the data is Float32[20] Int64[] with digest ");
                data.Add(strategy, "frozen", "tensor 0 is '0.weight' Float32[32, 20] on ranks 0, 2, but '0.weight' Float32[32, 20], frozen on rank 1");
            }

            return data;
        }
    }

    [Theory]
    [MemberData(nameof(Differences))]
    public async Task What_differs_is_named_on_every_rank(string strategy, string what, string message)
    {
        string[] errors = await RankThreads.Run(3, async group =>
            (await Assert.ThrowsAsync<InvalidOperationException>(() => Fit(group, strategy, group.Rank == 1 ? what : ""))).Message);
        Assert.All(errors, error => Assert.Contains(message, error, StringComparison.Ordinal));
        Assert.Equal(errors[0], errors[1]);
    }

    [Fact]
    public async Task An_evaluation_compares_its_data_too()
    {
        string[] errors = await RankThreads.Run(2, async group =>
        {
            using nn.Module<Tensor, Tensor> model = Models.Mlp();
            using var optimizer = optim.SGD(model.parameters(), 0.1);
            using var strategy = new DataParallel(group);
            using InMemoryDataset data = Models.Data(count: 96 - group.Rank);
            var trainer = new Trainer(model, optimizer, Models.CrossEntropy) { Strategy = strategy };
            return (await Assert.ThrowsAsync<InvalidOperationException>(() => trainer.EvaluateAsync(data))).Message;
        });
        Assert.All(errors, static error => Assert.Contains(OtherCount, error, StringComparison.Ordinal));
    }

    [Fact]
    public async Task In_a_mesh_the_ranks_of_every_dimension_are_compared()
    {
        // Rank 3 is alone with its data in its data-parallel group and in its pipeline; the others' groups find nothing.
        Exception?[] errors = await RankThreads.Run(4, async group =>
        {
            await using DeviceMesh mesh = await DeviceMesh.CreateAsync(group, new MeshShape(data: 2, pipeline: 2));
            using var strategy = new PipelineParallel(mesh[MeshShape.Pipeline], inner: new DataParallel(mesh[MeshShape.Data]));
            using InMemoryDataset data = Models.Data(count: group.Rank == 3 ? 95 : 96);
            return Record.Exception(() => TrainingAgreement.Check(strategy, data));
        });
        Assert.Null(errors[0]);
        Assert.All(errors[1..], static error => Assert.Contains(OtherCount, Assert.IsType<InvalidOperationException>(error).Message, StringComparison.Ordinal));
    }

    [Fact]
    public async Task Each_rank_can_have_random_numbers_of_its_own()
    {
        // One after the other, since LibTorch's generator is one for the process.
        float[][] masks = new float[4][];
        foreach (int run in new[] { 0, 1 })
        {
            await RankThreads.Run(2, group =>
            {
                using var strategy = new DataParallel(group);
                for (int rank = 0; rank < 2; rank++)
                {
                    if (group.Rank == rank)
                    {
                        masks[(2 * run) + rank] = Models.Seeded(1, () =>
                        {
                            RankGenerator.Seed(strategy, 7);
                            using Dropout dropout = nn.Dropout(0.5);
                            return dropout.call(ones(1000)).data<float>().ToArray();
                        });
                    }

                    group.Barrier();
                }

                return true;
            });
        }

        Assert.Equal(masks[0], masks[2]);
        Assert.Equal(masks[1], masks[3]);
        // Independent masks agree in half of the places: 500, give or take five standard deviations.
        Assert.InRange(masks[0].Zip(masks[1]).Count(static pair => pair.First == pair.Second), 420, 580);
    }

    private static async Task Fit(ProcessGroup group, string name, string what)
    {
        using nn.Module<Tensor, Tensor> model = Models.Mlp();
        if (what == "frozen") model.parameters().First().requires_grad = false;
        using InMemoryDataset whole = Models.Data(count: what == "count" ? 72 : 96);
        if (what == "values")
        {
            using var noGradient = no_grad();
            whole.Features[0, 3].add_(1);
        }

        using Strategy strategy = name switch
        {
            "ddp" => new DataParallel(group),
            "sharded" => new ShardedDataParallel(group),
            "pipeline" => new PipelineParallel(group),
            "local" => new LocalSgd(group),
            _ => new Gossip(group),
        };
        var trainer = new Trainer(model, static parameters => optim.SGD(parameters, 0.1), Models.CrossEntropy)
        {
            Strategy = strategy,
            Seed = what == "seed" ? 4 : 3,
            BatchSize = what == "batch" ? 12 : 24,
            MaxSteps = what == "steps" ? 7 : null,
        };
        await trainer.FitAsync(whole, what == "epochs" ? 3 : 2);
    }
}

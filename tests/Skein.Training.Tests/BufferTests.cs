using Skein.Collectives;
using Skein.Training.Checkpointing;
using Skein.Training.Data;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.Tests;

public class BufferTests
{
    private static Sequential Normalised() => nn.Sequential(
        ("first", nn.Linear(20, 8)), ("norm", nn.BatchNorm1d(8)), ("tanh", nn.Tanh()), ("head", nn.Linear(8, 5)));

    public static TheoryData<string> Several => ["ddp", "zero1", "zero2", "zero3", "local", "gossip"];

    [Theory]
    [MemberData(nameof(Several))]
    public async Task Statistics_are_the_same_on_all_ranks_after_a_fit(string kind)
    {
        float[][] statistics = await RankThreads.Run(2, async group =>
        {
            using InMemoryDataset data = Models.Data(count: 64);
            using Sequential model = Models.Seeded(1, Normalised);
            using Strategy strategy = Strategies.Create(kind, group);
            await new Trainer(model, static parameters => optim.SGD(parameters, 0.1), Models.CrossEntropy) { Strategy = strategy, BatchSize = 16 }.FitAsync(data);
            return Statistics(model);
        });
        Assert.Equal(statistics[0], statistics[1]);
        Assert.NotEqual(new float[8], statistics[0][..8]);
    }

    [Fact]
    public async Task A_loop_written_by_hand_makes_them_the_same()
    {
        float[][] statistics = await RankThreads.Run(2, group =>
        {
            using Sequential model = Models.Seeded(1, Normalised);
            using var strategy = new DataParallel(group);
            strategy.Attach(model);
            using (no_grad()) model.call(full(4, 20, 1f + group.Rank));
            float[] own = Statistics(model);
            strategy.SynchronizeBuffers();
            return (float[])[.. own, .. Statistics(model)];
        });
        int half = statistics[0].Length / 2;
        Assert.NotEqual(statistics[0][..half], statistics[1][..half]);
        Assert.Equal(statistics[0][..half], statistics[0][half..]);
        Assert.Equal(statistics[0][..half], statistics[1][half..]);
    }

    [Fact]
    public async Task Recomputed_layers_update_them_once_a_step()
    {
        Assert.Equal(await Train(recompute: false), await Train(recompute: true));

        static async Task<float[]> Train(bool recompute)
        {
            using InMemoryDataset data = Models.Data(count: 64);
            using Sequential model = Models.Seeded(1, Normalised);
            if (recompute) ActivationCheckpointing.Apply(model);
            await new Trainer(model, optim.SGD(model.parameters(), 0.1), Models.CrossEntropy) { BatchSize = 16, GradientAccumulation = 2 }.FitAsync(data);
            return Statistics(model);
        }
    }

    [Theory]
    [InlineData(ZeroStage.OptimizerState)]
    [InlineData(ZeroStage.Gradients)]
    [InlineData(ZeroStage.Parameters)]
    public async Task A_sharded_checkpoint_has_them(ZeroStage stage)
    {
        string directory = Directory.CreateTempSubdirectory("skein-buffers-").FullName;
        try
        {
            await RankThreads.Run(2, async group =>
            {
                using InMemoryDataset data = Models.Data(count: 64);
                using Sequential first = Models.Seeded(1, Normalised), second = Models.Seeded(2, Normalised);
                using var saved = new ShardedDataParallel(group, new ShardedOptions { Stage = stage });
                using var loaded = new ShardedDataParallel(group, new ShardedOptions { Stage = stage });
                var trainer = new Trainer(first, static parameters => optim.AdamW(parameters, 0.01), Models.CrossEntropy) { Strategy = saved, BatchSize = 16 };
                await trainer.FitAsync(data, 3);
                saved.Save(directory, trainer.Optimizer!);
                loaded.Attach(second);
                using optim.Optimizer optimizer = optim.AdamW(loaded.OptimizedParameters(second), 0.01);
                loaded.Load(directory, optimizer);
                Assert.Equal(Statistics(first), Statistics(second));
                EvaluationReport expected = await trainer.EvaluateAsync(data);
                Assert.Equal(expected, await new Trainer(second, _ => optimizer, Models.CrossEntropy) { Strategy = loaded, BatchSize = 16 }.EvaluateAsync(data));
                return 0;
            });
        }
        finally
        {
            Directory.Delete(directory, recursive: true);
        }
    }

    [Theory]
    [InlineData("single")]
    [InlineData("zero3")]
    [InlineData("pipeline")]
    public async Task A_file_of_the_full_state_has_them_and_another_model_takes_them(string kind)
    {
        string[] files = await RankThreads.Run(kind == "single" ? 1 : 2, async group =>
        {
            string path = Path.Combine(Path.GetTempPath(), $"skein-state-{Guid.NewGuid():N}.safetensors");
            using InMemoryDataset data = Models.Data(count: 64);
            using Sequential model = Models.Seeded(1, Normalised);
            using Strategy strategy = kind == "single" ? new SingleProcess() : Strategies.Create(kind, group);
            var trainer = new Trainer(model, static parameters => optim.AdamW(parameters, 0.01), Models.CrossEntropy) { Strategy = strategy, BatchSize = 16 };
            await trainer.FitAsync(data, 2);
            EvaluationReport expected = await trainer.EvaluateAsync(data);
            SafeTensors.Write(path, strategy.FullState(model));
            using Sequential whole = Models.Seeded(2, Normalised);
            SafeTensors.Load(path, whole);
            EvaluationReport actual = await new Trainer(whole, static parameters => optim.SGD(parameters, 0.1), Models.CrossEntropy) { BatchSize = 16 }.EvaluateAsync(data);
            Assert.Equal(expected.Loss, actual.Loss, 1e-6);
            Assert.Equal(8, ((BatchNorm1d)whole[1]).num_batches_tracked!.item<long>());
            return path;
        });
        foreach (string file in files) File.Delete(file);
    }

    [Theory]
    [InlineData(2)]
    [InlineData(3)]
    public async Task Synchronized_batch_norm_trains_as_one_process_does(int ranks)
    {
        Strategies.Training training = new() { Model = Normalised, Data = static () => Models.Data(count: 72), BatchSize = 24, Epochs = 4 };
        Strategies.Outcome single = await training.Run(new SingleProcess());
        Strategies.Outcome[] outcomes = await RankThreads.Run(ranks, async group =>
        {
            await using ProcessGroup own = (await group.SplitAsync(0, group.Rank))!;
            return await (training with
            {
                Fits = [(model, _) => SyncBatchNorm.Convert(model, own)],
            }).Run(new DataParallel(group, new DataParallelOptions { Overlap = true, BucketBytes = 256, FirstBucketBytes = 128 }));
        });
        Strategies.AssertSame(single, outcomes, 2e-5);
    }

    private static float[] Statistics(nn.Module model) => [.. model.buffers().SelectMany(static buffer => buffer.to(ScalarType.Float32).reshape(-1).data<float>().ToArray())];
}

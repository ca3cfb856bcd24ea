using Skein.Training;
using Skein.Training.Embeddings;
using static TorchSharp.torch;

namespace Skein.Workloads.Tests.Ratings;

public sealed class LectureRatingsTests
{
    private static readonly Workload Lectures = Workload.Find("lecture-ratings")!;

    [Fact]
    public async Task Holds_the_published_data_in_a_fixed_split()
    {
        using WorkloadData data = await Lectures.LoadDataAsync(CancellationToken.None);
        Assert.Equal([66_079L, 6], data.Train.Features.shape);
        Assert.Equal([7_342L, 6], data.Test.Features.shape);
        Assert.Equal(ScalarType.Int64, data.Train.Features.dtype);
        Assert.Equal(ScalarType.Float32, data.Train.Labels.dtype);

        using Tensor features = cat([data.Train.Features, data.Test.Features]);
        using Tensor ratings = cat([data.Train.Labels, data.Test.Labels]).to(int64);
        Assert.Equal([10_186L, 12_951, 17_609, 16_921, 15_754], ratings.bincount(null)[1..].data<long>().ToArray());
        long[] values = [2_972, 1_128, 14, 4, 6, 2];
        for (int column = 0; column < values.Length; column++)
        {
            // Every index occurs.
            Tensor counts = features.select(1, column).bincount(null);
            Assert.Equal(values[column], counts.shape[0]);
            Assert.True(counts.min().item<long>() > 0);
        }

        // The first and the last test row, and the sum of the ratings, from another implementation of the shuffle.
        Assert.Equal([2L, 377, 8, 0, 1, 1], data.Test.Features[0].data<long>().ToArray());
        Assert.Equal([2971L, 561, 7, 1, 1, 1], data.Test.Features[^1].data<long>().ToArray());
        Assert.Equal(23_629, data.Test.Labels.sum().item<float>());
    }

    [Theory]
    [InlineData("mf", 0.0005)]
    // It is as good as the biases, no better: what its last steps are like decides.
    [InlineData("two-tower", -0.01)]
    public async Task Defaults_beat_the_baselines(string name, double margin)
    {
        using WorkloadData data = await Lectures.LoadDataAsync(CancellationToken.None);
        Hyperparameters settings = Lectures.DefaultsOf(name);
        using nn.Module<Tensor, Tensor> model = Lectures.CreateModel(name, 1);
        using var optimizer = optim.SGD(model.parameters(), settings.LearningRate, weight_decay: settings.WeightDecay!.Value);
        var trainer = new Trainer(model, optimizer, Lectures.Loss) { BatchSize = settings.BatchSize, Seed = 1 };
        await trainer.FitAsync(data.Train, settings.Epochs);
        EvaluationReport evaluation = await trainer.EvaluateAsync(data.Test);
        IReadOnlyDictionary<string, double> metrics = Lectures.Evaluate!(model, data);
        Assert.Null(evaluation.Accuracy);
        Assert.Equal(Math.Sqrt(evaluation.Loss), metrics["test_rmse"], 1e-5);
        Assert.True(metrics["test_rmse"] < metrics["baseline_rmse_biases"] - margin, $"{name}: {string.Join(", ", metrics)}");
        Assert.True(metrics["baseline_rmse_biases"] < metrics["baseline_rmse_global_mean"] - 0.1);
        // Ten at random of the 1,100 or so that a student did not rate.
        Assert.InRange(metrics["recall_at_10"], 10 / 1_100.0, 1);
    }

    [Theory]
    [InlineData("mf", "users 2972×8", "items 1128×8", "user-biases 2972×1", "item-biases 1128×1", "context-biases 168×1")]
    [InlineData(
        "two-tower", "users 2972×8", "user-ages 4×4", "items 1128×8", "departments 14×4", "lecture-ages 6×4", "services 2×4",
        "user-biases 2972×1", "item-biases 1128×1")]
    public void Tables_come_from_the_given_factory(string name, params string[] tables)
    {
        var asked = new List<string>();
        using nn.Module<Tensor, Tensor> model = Lectures.CreateModel(name, 1, spec =>
        {
            asked.Add($"{spec.Name} {spec.Rows}×{spec.Dimension}");
            return new Ones(spec.Dimension);
        });
        Assert.Equal(tables, asked);
        Assert.DoesNotContain(model.parameters(), parameter => parameter.shape[0] > 1_000);
        Assert.Equal([3L], model.call(zeros(3, 6, int64)).shape);
    }

    [Fact]
    public void A_local_table_starts_with_the_deviation_asked_for_and_learns()
    {
        random.manual_seed(1);
        using nn.Module<Tensor, Tensor> table = LocalEmbedding.Create(new EmbeddingSpec("rows", 20_000, 8, 0.25f));
        TorchSharp.Modules.Parameter rows = Assert.Single(table.parameters());
        Assert.Equal([20_000L, 8], rows.shape);
        Assert.Equal(0.25, rows.std().item<float>(), 0.002);
        Assert.Equal(0, rows.mean().item<float>(), 0.003);

        table.call(tensor(new long[] { 7, 7, 9 })).sum().backward();
        Assert.Equal([2f, 0, 1], rows.grad!.select(1, 0)[7..10].data<float>().ToArray());
        Assert.True(LocalEmbedding.Create(new EmbeddingSpec("zeros", 5, 1, 0)).parameters().Single().eq(0).all().item<bool>());
    }

    private sealed class Ones(int dimension) : nn.Module<Tensor, Tensor>(nameof(Ones))
    {
        public override Tensor forward(Tensor input) => ones([.. input.shape, dimension]);
    }
}

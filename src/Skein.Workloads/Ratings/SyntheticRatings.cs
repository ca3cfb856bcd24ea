using static TorchSharp.torch;

namespace Skein.Workloads.Ratings;

/// <summary>
/// 500,000 made-up ratings by 9,000,000 users of 1,000,000 items (<see cref="RatingGenerator"/>), and 20,000 for testing: ten million
/// rows of embeddings, of which a run touches the fewest. Meant for parameter servers, where workers hold only the rows of a batch; a
/// single process has all of them, with gradients as large.
/// </summary>
internal static class SyntheticRatings
{
    private const int TrainCount = 500_000;
    private const int TestCount = 20_000;

    internal static Workload Workload { get; } = new()
    {
        Name = "synthetic-ratings",
        Description = "500,000 made-up ratings over 10 million rows of embeddings, for --strategy parameter-server",
        Models = [new("mf", static embedding => new MatrixFactorization(new RatingShape(9_000_000, 1_000_000), dimension: 16, RatingGenerator.Mean, embedding))],
        LoadDataAsync = static _ => Task.FromResult(Load()),
        Defaults = new Hyperparameters(Epochs: 1, BatchSize: 1920, Optimizer: "sgd", LearningRate: 3),
        Loss = static (ratings, labels) => nn.functional.mse_loss(ratings, labels),
    };

    private static WorkloadData Load()
    {
        var generator = new RatingGenerator(new RatingShape(9_000_000, 1_000_000));
        return new WorkloadData(generator.Take(0, TrainCount), generator.Take(TrainCount, TestCount));
    }
}

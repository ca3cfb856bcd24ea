using Skein.Training.Data;
using Skein.Workloads.Ratings;
using static TorchSharp.torch;

namespace Skein.Workloads.Tests.Ratings;

public sealed class RecallTests
{
    [Fact]
    public void Counts_what_is_among_the_best_that_the_user_did_not_rate_before()
    {
        using WorkloadData data = Data(
            train: [(0, 5, 1), (1, 0, 5), (2, 3, 5), (3, 1, 2)],
            test: [(0, 4, 5), (0, 0, 4), (0, 3, 3), (1, 2, 4), (2, 4, 2), (3, 0, 4), (3, 1, 4), (3, 2, 5)]);
        // The higher an item's index, the higher it is rated.
        using var model = new ByItem();
        var shape = new RatingShape(5, 6);

        // User 0: of 4 and 0, item 4 is among 4 and 3 (5 is known): 1 of 2. User 1: 2 is not among 5 and 4. User 2 has nothing good.
        // User 3: 2 and 0 are left of three good ones, since 1 is known; not among 5 and 4: 0 of 2.
        Assert.Equal((0.5 + 0 + 0) / 3, Recall.At(2, model, data, shape), 1e-9);
        // Among three: user 0 has 4, 3 and 2, so 1 of 2; user 1 has 5, 4 and 3, user 3 too.
        Assert.Equal((0.5 + 0 + 0) / 3, Recall.At(3, model, data, shape), 1e-9);
        // Among four: user 1 has 5, 4, 3 and 2; so has user 3, 1 of 3.
        Assert.Equal((0.5 + 1 + (1 / 3.0)) / 3, Recall.At(4, model, data, shape), 1e-9);
    }

    [Fact]
    public void Pairs_that_nobody_rated_have_the_features_that_user_and_item_had_before()
    {
        using var train = new InMemoryDataset(
            tensor(new long[] { 0, 0, 7, 2, 5, 1, 1, 1, 9, 3, 4, 0, 2, 1, 9, 1, 4, 1, 3, 1, 9, 1, 2, 1 }, 4, 6), ones(4));
        using var test = new InMemoryDataset(tensor(new long[] { 0, 1, 9, 2, 0, 0 }, 1, 6), full(1, 5f));
        using var model = new ByItem();
        Recall.At(1, model, new WorkloadData(train, test), new RatingShape(4, 3));
        Assert.Equal([0, 0, 7, 2, 5, 1, 0, 1, 9, 2, 4, 1, 0, 2, 0, 2, 0, 0], model.Seen!);
    }

    /// <summary>Data of users, items and ratings; other features are 0.</summary>
    internal static WorkloadData Data((int User, int Item, int Rating)[] train, (int User, int Item, int Rating)[] test)
    {
        return new WorkloadData(Rows(train), Rows(test));

        static InMemoryDataset Rows((int User, int Item, int Rating)[] rows) => new(
            tensor(rows.SelectMany(row => new long[] { row.User, row.Item, 0, 0, 0, 0 }).ToArray(), rows.Length, 6),
            tensor(rows.Select(row => (float)row.Rating).ToArray()));
    }

    private sealed class ByItem() : nn.Module<Tensor, Tensor>(nameof(ByItem))
    {
        public long[]? Seen { get; private set; }

        public override Tensor forward(Tensor input)
        {
            Seen = input.contiguous().data<long>().ToArray();
            return input.select(1, 1).to(float32);
        }
    }
}

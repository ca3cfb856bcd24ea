using Skein.Training.Data;
using TorchSharp;
using static TorchSharp.torch;

namespace Skein.Workloads.Ratings;

/// <summary>
/// Recall at k: of the items that a user rated at least 4 in the test data, how many are among the k with the highest predicted ratings
/// of all items that the user did not rate in the training data, divided by k or by their number, whichever is less; the mean over the
/// users who have such items.
/// </summary>
/// <remarks>
/// To rate a pair that nobody rated, its features are filled in: the user's age as in the user's ratings, and for the department, the
/// age and the service of the lecture the values most frequent with the item. Training data only; where it has none, 0.
/// </remarks>
internal static class Recall
{
    private const float Relevant = 4;
    private const int UsersAtOnce = 64;

    internal static double At(int k, nn.Module<Tensor, Tensor> model, WorkloadData data, RatingShape shape)
    {
        using var noGradient = no_grad();
        using DisposeScope scope = NewDisposeScope();
        Tensor known = Pairs(data.Train.Features, shape);                                               // [users, items]
        Tensor relevant = Pairs(data.Test.Features[data.Test.Labels.ge(Relevant)], shape);              // [users, items]
        Tensor counts = relevant.sum(1);                                                                // [users]
        Tensor users = counts.nonzero().squeeze(1);
        Tensor items = ItemFeatures(data.Train, shape);                                                 // [items, 6]
        Tensor ages = MostFrequent(data.Train, RatingShape.User, shape.Users, RatingShape.UserAge, shape.UserAges);
        Device device = DeviceOf(model);
        double sum = 0;
        foreach (Tensor some in users.split(UsersAtOnce))
        {
            using DisposeScope inner = NewDisposeScope();
            Tensor features = items.unsqueeze(0).repeat(some.shape[0], 1, 1);                           // [some, items, 6]
            features.select(2, RatingShape.User).copy_(some.unsqueeze(1).expand(-1, shape.Items));
            features.select(2, RatingShape.UserAge).copy_(ages[some].unsqueeze(1).expand(-1, shape.Items));
            Tensor ratings = model.call(features.flatten(0, 1).to(device)).cpu().view(-1, shape.Items);
            ratings.masked_fill_(known[some], float.NegativeInfinity);
            (_, Tensor best) = ratings.topk((int)Math.Min(k, shape.Items), 1);                          // [some, k]
            Tensor hits = relevant[some].gather(1, best).sum(1);
            sum += (hits.to(float64) / counts[some].clamp(max: k)).sum().ToDouble();
        }

        return sum / users.shape[0];
    }

    internal static Device DeviceOf(nn.Module model) => model.parameters().FirstOrDefault()?.device ?? CPU;

    // Which users rated which items.
    private static Tensor Pairs(Tensor features, RatingShape shape)
    {
        Tensor pairs = zeros(shape.Users, shape.Items, @bool);
        pairs[features.select(1, RatingShape.User), features.select(1, RatingShape.Item)] = true;
        return pairs;
    }

    private static Tensor ItemFeatures(InMemoryDataset data, RatingShape shape)
    {
        Tensor features = zeros(shape.Items, RatingShape.Columns, int64);
        features.select(1, RatingShape.Item).copy_(arange(shape.Items));
        foreach ((int column, int values) in (ReadOnlySpan<(int, int)>)
            [(RatingShape.Department, shape.Departments), (RatingShape.LectureAge, shape.LectureAges), (RatingShape.Service, shape.Services)])
        {
            features.select(1, column).copy_(MostFrequent(data, RatingShape.Item, shape.Items, column, values));
        }

        return features;
    }

    // For each value of one column, the most frequent of another.
    private static Tensor MostFrequent(InMemoryDataset data, int key, long keys, int column, int values)
    {
        Tensor pair = (data.Features.select(1, key) * values) + data.Features.select(1, column);
        return pair.bincount(null, keys * values).view(keys, values).argmax(1);
    }
}

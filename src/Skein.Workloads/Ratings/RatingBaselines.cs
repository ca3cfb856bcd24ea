using Skein.Training.Data;
using TorchSharp;
using static TorchSharp.torch;

namespace Skein.Workloads.Ratings;

/// <summary>What simple predictors reach: root mean squared errors on test ratings of what was fitted to training ratings.</summary>
internal static class RatingBaselines
{
    // The best for lecture-ratings when a tenth of its training ratings is held out: the baseline is at its best.
    internal const double UserRegularization = 13;
    internal const double ItemRegularization = 5;
    private const double Tolerance = 1e-9;

    /// <summary>The mean of the training ratings for everyone.</summary>
    internal static double GlobalMean(WorkloadData data)
    {
        double mean = data.Train.Labels.mean().ToDouble();
        return Rmse(data.Test, (_, _) => mean);
    }

    /// <summary>The mean, a bias of the user and one of the item.</summary>
    internal static double Biases(WorkloadData data, RatingShape shape)
    {
        double mean = data.Train.Labels.mean().ToDouble();
        (double[] users, double[] items) = FitBiases(data.Train, shape, UserRegularization, ItemRegularization);
        return Rmse(data.Test, (user, item) => mean + users[user] + items[item]);
    }

    /// <summary>
    /// The biases b and c that make Σ (rating - mean - b[user] - c[item])² + userRegularization · Σ b² + itemRegularization · Σ c²
    /// smallest: each side in turn is the exact solution for the other, until nothing changes.
    /// </summary>
    internal static (double[] Users, double[] Items) FitBiases(
        InMemoryDataset data, RatingShape shape, double userRegularization, double itemRegularization)
    {
        (long[] users, long[] items, float[] ratings) = Columns(data);
        double mean = ratings.Average(rating => (double)rating);
        var userBiases = new double[shape.Users];
        var itemBiases = new double[shape.Items];
        double change;
        do
        {
            change = Solve(users, userBiases, items, itemBiases, userRegularization);
            change = Math.Max(change, Solve(items, itemBiases, users, userBiases, itemRegularization));
        }
        while (change > Tolerance);
        return (userBiases, itemBiases);

        double Solve(long[] own, double[] ownBiases, long[] others, double[] otherBiases, double regularization)
        {
            var sums = new double[ownBiases.Length];
            var counts = new int[ownBiases.Length];
            for (int i = 0; i < ratings.Length; i++)
            {
                sums[own[i]] += ratings[i] - mean - otherBiases[others[i]];
                counts[own[i]]++;
            }

            double largest = 0;
            for (int i = 0; i < sums.Length; i++)
            {
                double bias = counts[i] == 0 ? 0 : sums[i] / (counts[i] + regularization);
                largest = Math.Max(largest, Math.Abs(bias - ownBiases[i]));
                ownBiases[i] = bias;
            }

            return largest;
        }
    }

    private static double Rmse(InMemoryDataset data, Func<long, long, double> predict)
    {
        (long[] users, long[] items, float[] ratings) = Columns(data);
        double sum = 0;
        for (int i = 0; i < ratings.Length; i++)
        {
            double error = ratings[i] - predict(users[i], items[i]);
            sum += error * error;
        }

        return Math.Sqrt(sum / ratings.Length);
    }

    private static (long[] Users, long[] Items, float[] Ratings) Columns(InMemoryDataset data)
    {
        using Tensor users = data.Features.select(1, RatingShape.User).contiguous();
        using Tensor items = data.Features.select(1, RatingShape.Item).contiguous();
        return (users.data<long>().ToArray(), items.data<long>().ToArray(), data.Labels.data<float>().ToArray());
    }
}

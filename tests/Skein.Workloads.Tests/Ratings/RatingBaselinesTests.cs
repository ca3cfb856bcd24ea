using Skein.Training.Data;
using Skein.Workloads.Ratings;
using static TorchSharp.torch;

namespace Skein.Workloads.Tests.Ratings;

public sealed class RatingBaselinesTests
{
    [Fact]
    public void Biases_are_those_of_the_normal_equations()
    {
        const int Users = 7, Items = 5;
        var shape = new RatingShape(Users, Items);
        using InMemoryDataset data = new RatingGenerator(shape, seed: 3).Take(0, 60);
        (double[] users, double[] items) = RatingBaselines.FitBiases(data, shape, userRegularization: 3, itemRegularization: 0.5);

        // One column for each user, then one for each item: (AᵀA + R) x = Aᵀ (ratings - mean).
        Tensor design = cat(
            [nn.functional.one_hot(data.Features.select(1, 0), Users), nn.functional.one_hot(data.Features.select(1, 1), Items)], 1).to(float64);
        Tensor ridge = diag(cat([full(Users, 3.0, float64), full(Items, 0.5, float64)]));
        Tensor ratings = data.Labels.to(float64);
        Tensor solution = linalg.solve(design.t().mm(design) + ridge, design.t().mv(ratings - ratings.mean()));
        Assert.All(solution.data<double>().ToArray().Zip([.. users, .. items]), pair => Assert.Equal(pair.First, pair.Second, 1e-7));
    }

    [Fact]
    public void Errors_are_those_on_the_test_data()
    {
        using WorkloadData data = RecallTests.Data([(0, 0, 1), (0, 1, 5), (1, 0, 2), (1, 1, 4)], [(0, 0, 5), (1, 1, 3)]);
        // The mean is 3: errors 2 and 0.
        Assert.Equal(Math.Sqrt(2), RatingBaselines.GlobalMean(data), 1e-9);

        // Both users' residuals add up to 0; the items' are -3 and 3, over two ratings each.
        double bias = 3 / (2 + RatingBaselines.ItemRegularization);
        double expected = Math.Sqrt(((2 + bias) * (2 + bias) + bias * bias) / 2);
        Assert.Equal(expected, RatingBaselines.Biases(data, new RatingShape(2, 2)), 1e-6);
    }
}

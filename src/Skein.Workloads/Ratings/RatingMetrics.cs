using TorchSharp;
using static TorchSharp.torch;

namespace Skein.Workloads.Ratings;

/// <summary>How well a model predicts ratings, beside simple predictors.</summary>
internal static class RatingMetrics
{
    /// <summary>The names are those of <c>skein train</c>'s summary.</summary>
    internal static IReadOnlyDictionary<string, double> Measure(nn.Module<Tensor, Tensor> model, WorkloadData data, RatingShape shape) =>
        new Dictionary<string, double>
        {
            ["test_rmse"] = Rmse(model, data),
            ["baseline_rmse_global_mean"] = RatingBaselines.GlobalMean(data),
            ["baseline_rmse_biases"] = RatingBaselines.Biases(data, shape),
            ["recall_at_10"] = Recall.At(10, model, data, shape),
        };

    private static double Rmse(nn.Module<Tensor, Tensor> model, WorkloadData data)
    {
        using var noGradient = no_grad();
        using DisposeScope scope = NewDisposeScope();
        (Tensor features, Tensor ratings) = data.Test.Gather(arange(data.Test.Count), Recall.DeviceOf(model));
        return nn.functional.mse_loss(model.call(features), ratings).sqrt().ToDouble();
    }
}

using Skein.Training;
using static TorchSharp.torch;

namespace Skein.Workloads.Tests;

public sealed class DigitsTests
{
    private static readonly Workload Digits = Workload.Find("digits")!;

    [Fact]
    public async Task Holds_the_published_data_in_a_fixed_split()
    {
        using WorkloadData data = await Digits.LoadDataAsync(CancellationToken.None);
        Assert.Equal([1437L, 64], data.Train.Features.shape);
        Assert.Equal([360L, 64], data.Test.Features.shape);
        Assert.Equal(ScalarType.Int64, data.Train.Labels.dtype);
        // The file's second line and its last but one; pixels are sixteenths.
        Assert.Equal([0, 0, 0, 12, 13, 5, 0, 0], data.Train.Features[0, ..8].data<float>().Select(pixel => pixel * 16));
        Assert.Equal([0, 0, 5, 12, 16, 12, 0, 0], data.Test.Features[359, 56..].data<float>().Select(pixel => pixel * 16));
        Assert.Equal(9, data.Test.Labels[359].item<long>());
        Assert.Equal([136L, 154, 151, 135, 143, 143, 151, 153, 138, 133], data.Train.Labels.bincount(null).data<long>().ToArray());
        Assert.True(data.Train.Features.is_contiguous());
        Assert.Equal(0, data.Train.Features.min().item<float>());
        Assert.Equal(1, data.Train.Features.max().item<float>());
    }

    [Fact]
    public void Initial_parameters_depend_only_on_the_seed()
    {
        rand(7);
        float[] first = Parameters(seed: 3);
        rand(100);
        Assert.Equal(first, Parameters(seed: 3));
        Assert.NotEqual(first, Parameters(seed: 4));
        Assert.Equal((64 * 128) + 128 + (128 * 10) + 10, first.Length);
    }

    [Fact]
    public void Unknown_model_is_named_with_the_known_ones()
    {
        var error = Assert.Throws<ArgumentException>(() => Digits.CreateModel("transformer", 1));
        Assert.Contains("'transformer'", error.Message, StringComparison.Ordinal);
        Assert.Contains("mlp", error.Message, StringComparison.Ordinal);
        Assert.Null(Workload.Find("imagenet"));
    }

    [Fact]
    public async Task Defaults_train_it_well()
    {
        using WorkloadData data = await Digits.LoadDataAsync(CancellationToken.None);
        using nn.Module<Tensor, Tensor> model = Digits.CreateModel("mlp", 1);
        using var optimizer = optim.SGD(model.parameters(), Digits.Defaults.LearningRate, momentum: 0.9);
        var trainer = new Trainer(model, optimizer, Digits.Loss) { BatchSize = Digits.Defaults.BatchSize, Seed = 1 };
        TrainingReport report = await trainer.FitAsync(data.Train, Digits.Defaults.Epochs);
        Assert.Equal(Math.Log(10), report.LossHistory[0], 0.15);
        EvaluationReport evaluation = await trainer.EvaluateAsync(data.Test);
        Assert.InRange(evaluation.Accuracy!.Value, 0.95, 1);
    }

    private static float[] Parameters(long seed)
    {
        using nn.Module<Tensor, Tensor> model = Digits.CreateModel("mlp", seed);
        return [.. model.parameters().SelectMany(parameter => parameter.data<float>().ToArray())];
    }
}

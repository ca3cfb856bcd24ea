using Skein.Training.Planning;
using static TorchSharp.torch;

namespace Skein.Training.Tests.Planning;

/// <summary>What is measured of memory, which does not swing with the machine, against what it has to be.</summary>
public class ModelProfilerTests
{
    private const int Features = 4096;
    private const int Hidden = 512;

    [Fact]
    public async Task Layers_before_any_parameter_cost_no_gradient_of_their_output()
    {
        ModelProfile profile = Assert.Single(await RankThreads.Run(1, static async group =>
        {
            using nn.Module<Tensor, Tensor> model = Models.Seeded(1, static () => nn.Sequential(
                ("flatten", nn.Flatten()), ("first", nn.Linear(Features, Hidden)), ("relu", nn.ReLU()), ("second", nn.Linear(Hidden, Hidden))));
            using var data = Models.Data(64, Features, classes: Hidden);
            return await ModelProfiler.MeasureAsync(group, model, Models.CrossEntropy, data, static parameters => optim.Adam(parameters), plan: null, largest: 64);
        }));

        Assert.Equal(["flatten", "first", "relu", "second"], profile.Layers.Select(static layer => layer.Name));
        Assert.Equal(0, profile.Layers[0].Backward.At(64));
        Assert.InRange(profile.Layers[1].BackwardChange.PerSample, -Features, sizeof(float) * Features / 2);
        // Its input's gradient, in place of that of its output, which is as large.
        Assert.InRange(profile.Layers[3].BackwardChange.PerSample, -Hidden, sizeof(float) * Hidden);
        Assert.Equal(2 * sizeof(float), profile.OptimizerBytes, 0.1);
        Assert.Equal(sizeof(float) * Hidden, profile.Layers[1].OutputBytes);
    }
}

using Skein.Training.Planning;

namespace Skein.Training.Tests.Planning;

public class ZeroMemoryTests
{
    // Rajbhandari et al. 2020, figure 1: 7.5 billion parameters in half precision on 64 ranks, Adam with K = 12.
    [Theory]
    [InlineData(null, 120)]
    [InlineData(ZeroStage.OptimizerState, 31.4)]
    [InlineData(ZeroStage.Gradients, 16.6)]
    [InlineData(ZeroStage.Parameters, 1.9)]
    public void It_is_what_the_paper_says(ZeroStage? stage, double gigabytes) =>
        Assert.Equal(gigabytes, new ZeroMemory(2, 2, 12).PerRank(7.5e9, 64, stage) / 1e9, 0.05);

    [Fact]
    public void One_rank_has_nobody_to_divide_with() =>
        Assert.All(Enum.GetValues<ZeroStage>(), static stage => Assert.Equal(16e6, new ZeroMemory(4, 4, 8).PerRank(1e6, 1, stage)));
}

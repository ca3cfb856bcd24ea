using Skein.Training.Pipeline;
using Skein.Training.Planning;

namespace Skein.Training.Tests.Planning;

public class ActivationMemoryTests
{
    // Narayanan et al. 2021, section 2.2.1: GPipe keeps all micro-batches, 1F1B as many as stages come from here on.
    [Theory]
    [InlineData(4, 0, 16, 4)]
    [InlineData(4, 3, 16, 1)]
    [InlineData(8, 2, 16, 6)]
    [InlineData(4, 0, 2, 2)]
    public void Stages_keep_as_many_micro_batches_as_their_schedule_says(int stages, int stage, int microBatches, int expected)
    {
        Assert.Equal([expected], ActivationMemory.MostInFlight(PipelineSchedule.OneForwardOneBackward, stages, stage, microBatches));
        Assert.Equal([microBatches], ActivationMemory.MostInFlight(PipelineSchedule.GPipe, stages, stage, microBatches));
    }

    [Fact]
    public void A_pass_keeps_all_layers_activations_until_its_backward_pass_comes_to_them()
    {
        LayerShare[] layers = [.. Profiles.Of(4).Layers.Select(static layer => new LayerShare(layer, 10, 1))];
        // Of four layers, and the first fresh gradient.
        Assert.Equal((4 * 10 * Profiles.Saved) + 400, ActivationMemory.Peak(layers, FreshGradients.Stay));
        Assert.Equal((4 * 10 * Profiles.Saved) + (4 * 400) + 400, ActivationMemory.Peak(layers, FreshGradients.Accumulate));
    }

    [Fact]
    public void Gradients_that_leave_are_there_once_at_most()
    {
        LayerShare[] layers = [.. Profiles.Of(4).Layers.Select(static layer => new LayerShare(layer, 0, 1))];
        Assert.Equal(4 * 400, ActivationMemory.Peak(layers, FreshGradients.Stay));
        Assert.Equal(400, ActivationMemory.Peak(layers, FreshGradients.Leave));
    }
}

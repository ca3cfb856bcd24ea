using Skein.Training.Planning;
using Skein.Training.Tests.Pipeline;
using static TorchSharp.torch;

namespace Skein.Training.Tests;

public class ActivationCheckpointingTests
{
    [Fact]
    public void Gradients_and_names_are_the_same_with_dropout_too()
    {
        using Tensor features = Models.Seeded(2, static () => randn(24, 20)), labels = Models.Seeded(2, static () => randint(0, 5, [24]));
        (string[] Names, float[][] Gradients, long Next)[] runs = [.. ((bool[])[false, true]).Select(recompute =>
        {
            using nn.Module<Tensor, Tensor> model = Models.Seeded(1, static () => nn.Sequential(
                nn.Linear(20, 32), nn.Sequential(nn.Tanh(), nn.Dropout(0.5), nn.Linear(32, 32)), nn.Dropout(0.3), nn.LayerNorm(32), nn.Linear(32, 5)));
            if (recompute) ActivationCheckpointing.Apply(model);
            random.manual_seed(7);
            using var scope = NewDisposeScope();
            for (int i = 0; i < 2; i++) Models.CrossEntropy(model.call(features), labels).backward();
            // What is drawn next shows that recomputation leaves the generator where it was.
            return (model.named_parameters().Select(static entry => entry.name).ToArray(), Models.Gradients(model), randint(0, 1_000_000_000, [1]).item<long>());
        })];
        Assert.Equal(runs[0].Names, runs[1].Names);
        Assert.Equal(runs[0].Gradients, runs[1].Gradients);
        Assert.Equal(runs[0].Next, runs[1].Next);
    }

    [Fact]
    public void A_layered_model_with_a_shared_weight_has_the_same_gradients()
    {
        using Tensor tokens = Models.Seeded(2, static () => randint(0, 11, [24])), labels = Models.Seeded(3, static () => randint(0, 11, [24]));
        float[][][] gradients = [.. ((bool[])[false, true]).Select(recompute =>
        {
            using LayeredModels.Layered model = Models.Seeded(1, LayeredModels.Tied);
            if (recompute) ActivationCheckpointing.Apply(model);
            using var scope = NewDisposeScope();
            Models.CrossEntropy(model.call(tokens), labels).backward();
            return Models.Gradients(model);
        })];
        Assert.Equal(gradients[0], gradients[1]);
    }

    [Fact]
    public void Memory_falls_to_the_layers_inputs()
    {
        // Each layer keeps 2048 · 2048 numbers, 16 MiB, of which its input is 1/32.
        long[] kept = [.. ((bool[])[true, false]).Select(recompute =>
        {
            using nn.Module<Tensor, Tensor> model = Models.Seeded(1, static () => nn.Sequential(Enumerable.Range(0, 12).Select(static _ =>
                (nn.Module<Tensor, Tensor>)nn.Sequential(nn.Linear(64, 2048), nn.Tanh(), nn.Linear(2048, 64))).ToArray()));
            if (recompute) ActivationCheckpointing.Apply(model);
            using Tensor input = ones(2048, 64);
            using (Tensor warm = model.call(input)) warm.sum().backward();
            long before = ProcessMemory.InUse;
            using var scope = NewDisposeScope();
            Tensor output = model.call(input);
            long held = ProcessMemory.InUse - before;
            output.sum().backward();
            return held;
        })];
        Assert.InRange(kept[0], 0, 24L << 20);
        Assert.InRange(kept[1], 12L * 16 << 20, 12L * 18 << 20);
    }

    [Fact]
    public async Task An_error_in_a_recomputation_ends_the_training_with_it()
    {
        using var data = Models.Data();
        using var broken = new FailsAgain();
        using nn.Module<Tensor, Tensor> model = Models.Seeded(1, () => nn.Sequential(nn.Linear(20, 16), broken, nn.Linear(16, 5)));
        ActivationCheckpointing.Apply(model);
        using var optimizer = optim.SGD(model.parameters(), 0.1);
        var error = await Assert.ThrowsAsync<InvalidDataException>(() => new Trainer(model, optimizer, Models.CrossEntropy) { BatchSize = 16, MaxSteps = 1 }.FitAsync(data));
        Assert.Equal("the second time", error.Message);
    }

    private sealed class FailsAgain() : nn.Module<Tensor, Tensor>(nameof(FailsAgain))
    {
        private bool called;

        public override Tensor forward(Tensor input)
        {
            if (called) throw new InvalidDataException("the second time");
            called = true;
            return input.tanh();
        }
    }
}

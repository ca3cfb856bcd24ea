using Skein.Training.Data;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.Tests;

public class TrainingModesTests
{
    private static (Sequential Model, BatchNorm1d Norm) Normalised()
    {
        BatchNorm1d norm = nn.BatchNorm1d(20);
        return (nn.Sequential(("norm", norm), ("first", nn.Linear(20, 8)), ("dropout", nn.Dropout(0.5)), ("head", nn.Linear(8, 5))), norm);
    }

    [Theory]
    [InlineData("single")]
    [InlineData("ddp")]
    [InlineData("zero3")]
    [InlineData("pipeline")]
    public async Task A_module_in_evaluation_mode_stays_in_it_through_fits_and_evaluations(string kind)
    {
        await RankThreads.Run(kind == "single" ? 1 : 2, async group =>
        {
            using InMemoryDataset data = Models.Data(count: 64);
            (Sequential model, BatchNorm1d norm) = Models.Seeded(1, Normalised);
            model.train();
            norm.eval();
            bool[] before = Modes(model);
            float[] statistics = norm.running_mean!.data<float>().ToArray();
            using Strategy strategy = kind == "single" ? new SingleProcess() : Strategies.Create(kind, group);
            var trainer = new Trainer(model, static parameters => optim.SGD(parameters, 0.1), Models.CrossEntropy) { Strategy = strategy, BatchSize = 16 };
            await trainer.FitAsync(data);
            Assert.Equal(before, Modes(model));
            if (norm.running_mean!.numel() > 0) Assert.Equal(statistics, norm.running_mean.data<float>().ToArray());
            await trainer.EvaluateAsync(data);
            Assert.Equal(before, Modes(model));
            return 0;
        });
    }

    [Fact]
    public async Task A_model_in_evaluation_mode_is_trained_in_training_mode_and_gets_its_mode_back()
    {
        using InMemoryDataset data = Models.Data(count: 64);
        (Sequential model, BatchNorm1d norm) = Models.Seeded(1, Normalised);
        model.eval();
        float[] statistics = norm.running_mean!.data<float>().ToArray();
        await new Trainer(model, optim.SGD(model.parameters(), 0.1), Models.CrossEntropy).FitAsync(data);
        Assert.All(Modes(model), Assert.False);
        Assert.NotEqual(statistics, norm.running_mean.data<float>().ToArray());
    }

    [Fact]
    public async Task Recomputed_layers_keep_their_modes_too()
    {
        using InMemoryDataset data = Models.Data(count: 64);
        (Sequential model, BatchNorm1d norm) = Models.Seeded(1, Normalised);
        ActivationCheckpointing.Apply(model);
        norm.eval();
        float[] statistics = norm.running_mean!.data<float>().ToArray();
        await new Trainer(model, optim.SGD(model.parameters(), 0.1), Models.CrossEntropy).FitAsync(data);
        Assert.False(norm.training);
        Assert.Equal(statistics, norm.running_mean.data<float>().ToArray());
    }

    private static bool[] Modes(nn.Module model) => [.. model.modules().Select(static module => module.training)];
}

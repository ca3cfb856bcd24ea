using Skein.Training.Data;
using static TorchSharp.torch;

namespace Skein.Training.Tests;

public class SecondFitTests
{
    private static InMemoryDataset Numbers(int count) => new(arange(count, dtype: float32).reshape(count, 1), arange(count, dtype: float32).reshape(count, 1));

    [Fact]
    public async Task A_fit_for_each_epoch_is_one_fit_of_all()
    {
        (List<float> Samples, List<double> Rates, List<int> Epochs) parts = await Train(1, 1, 1), whole = await Train(3);
        Assert.Equal(whole.Samples, parts.Samples);
        Assert.Equal(whole.Rates, parts.Rates);
        Assert.Equal(whole.Epochs, parts.Epochs);
        Assert.NotEqual(whole.Samples[..8], whole.Samples[8..16]);

        static async Task<(List<float>, List<double>, List<int>)> Train(params int[] epochs)
        {
            (List<float> Samples, List<double> Rates, List<int> Epochs) seen = ([], [], []);
            using InMemoryDataset data = Numbers(8);
            using nn.Module<Tensor, Tensor> model = nn.Sequential(nn.Linear(1, 1));
            var trainer = new Trainer(model, static parameters => optim.SGD(parameters, 1e-3), Record)
            {
                BatchSize = 4,
                LearningRate = static step => 1e-3 * (step + 1),
                StepCompleted = step =>
                {
                    seen.Rates.Add(step.LearningRate);
                    seen.Epochs.Add(step.Epoch);
                },
            };
            foreach (int part in epochs) Assert.Equal(2 * part, (await trainer.FitAsync(data, part)).Steps);
            return seen;

            Tensor Record(Tensor output, Tensor labels)
            {
                seen.Samples.AddRange(labels.data<float>().ToArray());
                return (output - labels).square().mean();
            }
        }
    }

    [Fact]
    public async Task Fits_of_some_steps_go_through_all_of_the_data()
    {
        var seen = new List<float>();
        using InMemoryDataset data = Numbers(40);
        using nn.Module<Tensor, Tensor> model = nn.Sequential(nn.Linear(1, 1));
        var trainer = new Trainer(model, static parameters => optim.SGD(parameters, 1e-5), Record) { BatchSize = 4, MaxSteps = 5 };
        for (int i = 0; i < 4; i++)
        {
            TrainingReport report = await trainer.FitAsync(data, 100);
            Assert.Equal((5L, i % 2), (report.Steps, report.Epochs));
            await trainer.EvaluateAsync(data);
        }

        Assert.Equal(40, seen[..20].Concat(seen[20..40]).Distinct().Count());
        Assert.Equal(80, seen.Count);
        Assert.Equal(40, seen[40..].Distinct().Count());

        Tensor Record(Tensor output, Tensor labels)
        {
            if (is_grad_enabled()) seen.AddRange(labels.data<float>().ToArray());
            return (output - labels).square().mean();
        }
    }

    [Fact]
    public async Task A_fit_that_begins_within_an_epoch_trains_for_as_many_samples()
    {
        using InMemoryDataset data = Models.Data(count: 40);
        using nn.Module<Tensor, Tensor> model = Models.Mlp();
        using var source = new CancellationTokenSource();
        var trainer = new Trainer(model, static parameters => optim.SGD(parameters, 0.1), Models.CrossEntropy)
        {
            BatchSize = 10,
            StepCompleted = step =>
            {
                if (step.Step == 6) source.Cancel();
            },
        };
        var cancelled = await Assert.ThrowsAsync<TrainingCanceledException>(() => trainer.FitAsync(data, 100, source.Token));
        Assert.Equal("training was cancelled after step 7", cancelled.Message);
        Assert.Equal((7L, 1, 7), (cancelled.Report.Steps, cancelled.Report.Epochs, cancelled.Report.LossHistory.Count));
        Assert.Equal(8, (await trainer.FitAsync(data, 2)).Steps);
    }

    [Theory]
    [InlineData("single")]
    [InlineData("ddp")]
    [InlineData("zero2")]
    [InlineData("zero3")]
    [InlineData("pipeline")]
    public async Task Two_epochs_and_two_more_of_another_trainer_that_is_told_where_to_begin_are_four(string kind)
    {
        await RankThreads.Run(kind == "single" ? 1 : 2, async group =>
        {
            using InMemoryDataset data = Models.Data(count: 64);
            IReadOnlyList<float> whole = await Train(4, 0), first = await Train(2, 0), second = await Train(2, 8, 2);
            Assert.Equal(whole.Take(8), first);
            Assert.Equal(whole.Skip(8), second.Skip(8));
            return 0;

            // The second one's model is trained by the first half as well, by another trainer.
            async Task<IReadOnlyList<float>> Train(int epochs, long start, int before = 0)
            {
                using nn.Module<Tensor, Tensor> model = Models.Mlp();
                using Strategy strategy = kind == "single" ? new SingleProcess() : Strategies.Create(kind, group);
                optim.Optimizer? optimizer = null;
                IReadOnlyList<float> losses = before == 0 ? [] : (await Make(0).FitAsync(data, before)).LossHistory;
                losses = [.. losses, .. (await Make(start).FitAsync(data, epochs)).LossHistory];
                optimizer!.Dispose();
                return losses;

                Trainer Make(long startStep) => new(model, parameters => optimizer ??= optim.AdamW(parameters, 0.01), Models.CrossEntropy) { Strategy = strategy, BatchSize = 16, StartStep = startStep };
            }
        });
    }

    [Fact]
    public async Task A_torch_schedule_advances_with_every_epoch()
    {
        using InMemoryDataset data = Models.Data();
        using nn.Module<Tensor, Tensor> model = Models.Mlp();
        using var optimizer = optim.SGD(model.parameters(), 1);
        var rates = new List<double>();
        var trainer = new Trainer(model, optimizer, Models.CrossEntropy)
        {
            BatchSize = 48,
            EpochScheduler = optim.lr_scheduler.StepLR(optimizer, 1, 0.5),
            StepCompleted = step => rates.Add(step.LearningRate),
        };
        await trainer.FitAsync(data, epochs: 2);
        await trainer.FitAsync(data, epochs: 1);
        Assert.Equal([1, 1, 0.5, 0.5, 0.25, 0.25], rates);
    }

    [Fact]
    public async Task A_schedule_that_waits_for_a_plateau_sees_the_loss()
    {
        using InMemoryDataset data = Models.Data();
        using nn.Module<Tensor, Tensor> model = Models.Mlp();
        using var optimizer = optim.SGD(model.parameters(), 0.5);
        var trainer = new Trainer(model, optimizer, static (output, _) => output.sum() * 0)
        {
            BatchSize = 48,
            EpochScheduler = optim.lr_scheduler.ReduceLROnPlateau(optimizer, "min", factor: 0.1, patience: 1),
        };
        await trainer.FitAsync(data, epochs: 4);
        Assert.Equal(0.05, optimizer.ParamGroups.First().LearningRate, 1e-9);
    }
}

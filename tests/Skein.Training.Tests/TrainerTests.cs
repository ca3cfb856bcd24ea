using TorchSharp;
using static TorchSharp.torch;

namespace Skein.Training.Tests;

public class TrainerTests
{
    [Fact]
    public async Task Equals_a_loop_written_by_hand()
    {
        using var data = Models.Data();
        using var model = Models.Mlp();
        using var optimizer = optim.SGD(model.parameters(), 0.1, momentum: 0.9);
        TrainingReport report = await new Trainer(model, optimizer, Models.CrossEntropy) { BatchSize = 20, Seed = 5 }.FitAsync(data, epochs: 3);

        using var twin = Models.Mlp();
        using var twinOptimizer = optim.SGD(twin.parameters(), 0.1, momentum: 0.9);
        var sampler = new Data.DistributedSampler(data.Count, 20, 0, 1, 5);
        var losses = new List<float>();
        for (int epoch = 0; epoch < 3; epoch++)
        {
            sampler.SetEpoch(epoch);
            for (int i = 0; i < sampler.BatchesPerEpoch; i++)
            {
                using var scope = NewDisposeScope();
                Tensor indices = tensor(sampler.LocalIndices(i).ToArray());
                twinOptimizer.zero_grad();
                Tensor loss = Models.CrossEntropy(twin.call(data.Features[indices]), data.Labels[indices]);
                loss.backward();
                twinOptimizer.step();
                losses.Add(loss.ToSingle());
            }
        }

        Assert.Equal(15, report.Steps);
        Assert.Equal(3, report.Epochs);
        Assert.Equal(3 * 96, report.Samples);
        Assert.Equal(losses, report.LossHistory);
        Assert.Equal(Models.Parameters(twin), Models.Parameters(model));
        Assert.Equal(losses.TakeLast(5).Zip([20, 20, 20, 20, 16], static (loss, count) => (double)loss * count).Sum() / 96, report.TrainLoss, 1e-6);
    }

    [Theory]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(64)]
    public async Task Gradient_accumulation_equals_the_whole_batch(int accumulation)
    {
        (IReadOnlyList<float> whole, float[] wholeParameters) = await Run(1);
        (IReadOnlyList<float> parts, float[] partsParameters) = await Run(accumulation);
        Models.AssertClose(whole, parts, 1e-5);
        Models.AssertClose(wholeParameters, partsParameters, 1e-4, 1e-6);

        static async Task<(IReadOnlyList<float>, float[])> Run(int accumulation)
        {
            using var data = Models.Data();
            using var model = Models.Mlp();
            using var optimizer = optim.SGD(model.parameters(), 0.1);
            var trainer = new Trainer(model, optimizer, Models.CrossEntropy) { BatchSize = 20, GradientAccumulation = accumulation };
            TrainingReport report = await trainer.FitAsync(data, epochs: 4);
            return (report.LossHistory, Models.Parameters(model));
        }
    }

    [Fact]
    public async Task Steps_are_reported_and_limited_and_follow_the_learning_rate()
    {
        using var data = Models.Data();
        using var model = Models.Mlp();
        using var optimizer = optim.SGD(model.parameters(), 1);
        var seen = new List<StepInfo>();
        int thread = 0;
        var trainer = new Trainer(model, optimizer, nn.CrossEntropyLoss())
        {
            BatchSize = 40,
            MaxSteps = 7,
            MaxGradientNorm = 0.01,
            LearningRate = static step => 0.5 / (step + 1),
            StepCompleted = info =>
            {
                seen.Add(info);
                thread = Environment.CurrentManagedThreadId;
            },
        };
        TrainingReport report = await trainer.FitAsync(data, epochs: 100);

        Assert.Equal(7, report.Steps);
        Assert.Equal(2, report.Epochs);
        Assert.Equal([1L, 2, 3, 4, 5, 6, 7], seen.Select(static info => info.Step));
        Assert.Equal([0, 0, 0, 1, 1, 1, 2], seen.Select(static info => info.Epoch));
        Assert.Equal([40, 40, 16, 40, 40, 16, 40], seen.Select(static info => info.Samples));
        Assert.Equal([0.5, 0.25, 0.5 / 3, 0.125, 0.1, 0.5 / 6, 0.5 / 7], seen.Select(static info => info.LearningRate));
        Assert.Equal(report.LossHistory, seen.Select(static info => info.Loss));
        Assert.All(seen, static info => Assert.True(info.GradientNorm > 0.01));
        Assert.NotEqual(Environment.CurrentManagedThreadId, thread);
    }

    [Fact]
    public async Task A_torch_schedule_advances_with_every_step()
    {
        using var data = Models.Data();
        using var model = Models.Mlp();
        using var optimizer = optim.SGD(model.parameters(), 1);
        var rates = new List<double>();
        var trainer = new Trainer(model, optimizer, Models.CrossEntropy)
        {
            BatchSize = 48,
            Scheduler = optim.lr_scheduler.ExponentialLR(optimizer, 0.5),
            StepCompleted = info => rates.Add(info.LearningRate),
        };
        await trainer.FitAsync(data, epochs: 2);
        Assert.Equal([1, 0.5, 0.25, 0.125], rates);
    }

    [Fact]
    public async Task Cancelling_ends_after_the_current_step()
    {
        using var data = Models.Data();
        using var model = Models.Mlp();
        using var optimizer = optim.SGD(model.parameters(), 0.1);
        using var source = new CancellationTokenSource();
        long last = 0;
        var trainer = new Trainer(model, optimizer, Models.CrossEntropy)
        {
            BatchSize = 8,
            StepCompleted = info =>
            {
                last = info.Step;
                if (info.Step == 5) source.Cancel();
            },
        };
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => trainer.FitAsync(data, 1000, source.Token));
        Assert.InRange(last, 5, 6);
    }

    [Fact]
    public async Task Evaluation_weights_every_sample_alike_and_leaves_the_mode()
    {
        using var data = Models.Data(count: 50);
        using var model = Models.Mlp();
        using var optimizer = optim.SGD(model.parameters(), 0.1);
        model.train();
        EvaluationReport report = await new Trainer(model, optimizer, Models.CrossEntropy) { BatchSize = 16 }.EvaluateAsync(data);

        using Tensor output = model.call(data.Features);
        Assert.Equal(50, report.Samples);
        Assert.Equal(Models.CrossEntropy(output, data.Labels).ToDouble(), report.Loss, 1e-6);
        Assert.Equal(output.argmax(1).eq(data.Labels).sum().ToInt64() / 50.0, report.Accuracy);
        Assert.True(model.training);
    }

    [Fact]
    public async Task An_error_in_a_callback_reaches_the_caller()
    {
        using var data = Models.Data();
        using var model = Models.Mlp();
        using var optimizer = optim.SGD(model.parameters(), 0.1);
        var trainer = new Trainer(model, optimizer, Models.CrossEntropy) { StepCompleted = static _ => throw new InvalidDataException("from the callback") };
        var error = await Assert.ThrowsAsync<InvalidDataException>(() => trainer.FitAsync(data));
        Assert.Equal("from the callback", error.Message);
    }
}

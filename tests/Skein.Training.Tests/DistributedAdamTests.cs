using Skein.Training.Optimizers;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.Tests;

public class DistributedAdamTests
{
    [Theory]
    [InlineData(ScalarType.Float32, 0.0, false)]
    [InlineData(ScalarType.Float32, 0.01, false)]
    [InlineData(ScalarType.Float32, 0.01, true)]
    [InlineData(ScalarType.Float64, 0.01, false)]
    [InlineData(ScalarType.BFloat16, 0.01, false)]
    public void Equals_torch_AdamW_step_by_step(ScalarType type, double decay, bool amsgrad)
    {
        // 37 and 1,003 elements leave remainders for every vector width.
        Parameter[] ours = Make(type), theirs = Make(type);
        using var optimizer = new DistributedAdam(ours, 0.01, 0.8, 0.99, 1e-7, decay, amsgrad);
        using var reference = optim.AdamW(theirs, 0.01, 0.8, 0.99, 1e-7, decay, amsgrad);
        for (int step = 0; step < 300; step++)
        {
            using var scope = NewDisposeScope();
            for (int i = 0; i < ours.Length; i++)
            {
                // Every third step leaves the second parameter without a gradient: its state must not advance.
                Tensor? gradient = i == 1 && step % 3 == 2 ? null : Models.Seeded(step * 10 + i, () => randn(ours[i].shape).to(type));
                ours[i].grad = gradient;
                theirs[i].grad = gradient;
            }

            optimizer.step();
            reference.step();
        }

        for (int i = 0; i < ours.Length; i++)
        {
            double difference = (ours[i].detach().to(ScalarType.Float64) - theirs[i].detach().to(ScalarType.Float64)).abs().max().ToDouble();
            Assert.InRange(difference, 0, type == ScalarType.Float64 ? 1e-13 : 1e-6);
        }
    }

    [Fact]
    public void Groups_have_their_own_learning_rate_and_schedules_apply()
    {
        Parameter[] ours = Make(ScalarType.Float32), theirs = Make(ScalarType.Float32);
        using var optimizer = new DistributedAdam(ours, 0.1);
        using var reference = optim.AdamW(theirs, 0.1, weight_decay: 0);
        optim.lr_scheduler.LRScheduler[] schedules = [optim.lr_scheduler.StepLR(optimizer, 2, 0.1), optim.lr_scheduler.StepLR(reference, 2, 0.1)];
        for (int step = 0; step < 6; step++)
        {
            for (int i = 0; i < ours.Length; i++) ours[i].grad = theirs[i].grad = ones_like(ours[i]);
            optimizer.step();
            reference.step();
            foreach (var schedule in schedules) schedule.step();
        }

        Models.AssertClose(theirs[0].detach().data<float>().ToArray(), ours[0].detach().data<float>().ToArray(), 1e-6);
    }

    private static Parameter[] Make(ScalarType type) => Models.Seeded(3, () => new[]
    {
        new Parameter(randn(37).to(type)), new Parameter(randn(17, 59).to(type)), new Parameter(randn(1).to(type)),
    });
}

using System.Diagnostics;
using Skein.Training.Data;
using Skein.Training.Optimizers;
using static TorchSharp.torch;

namespace Skein.Training.Tests;

public class MemoryTests
{
    [Fact]
    public async Task A_thousand_steps_leave_no_tensor_and_no_memory_behind()
    {
        long before = LiveTensors();
        await RankThreads.Run(2, async group =>
        {
            using InMemoryDataset data = Models.Seeded(1, static () => new InMemoryDataset(randn(256, 784), randint(0, 10, [256])));
            using nn.Module<Tensor, Tensor> model = Models.Seeded(1, static () => nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)));
            using var optimizer = new DistributedAdam(model.parameters());
            using var strategy = new DataParallel(group, new DataParallelOptions { BucketBytes = 64 << 10, FirstBucketBytes = 1 << 10, Overlap = true });
            var counts = new List<long>();
            var bytes = new List<long>();
            var trainer = new Trainer(model, optimizer, Models.CrossEntropy)
            {
                Strategy = strategy,
                BatchSize = 32,
                GradientAccumulation = 2,
                MaxGradientNorm = 1,
                MaxSteps = 1100,
                StepCompleted = info =>
                {
                    if (info.Step is not (100 or 1100)) return;
                    group.Barrier();
                    counts.Add(LiveTensors());
                    bytes.Add(ResidentBytes());
                    group.Barrier();
                },
            };
            await trainer.FitAsync(data, 10_000);
            Assert.InRange(counts[1], 0, counts[0]);
            // What the compiler and the collector take meanwhile is a few MiB; one bucket lost in each step would be 64.
            Assert.InRange(bytes[1] - bytes[0], long.MinValue, 32 << 20);
            return 0;
        });
        // TorchSharp never stops counting the tensor that each Parameter was made from: six in each model.
        Assert.InRange(LiveTensors(), 0, before + (2 * 6));
    }

    // Earlier tests may have left tensors to their finalizers, some of which are reached only later: what is left can only be fewer.
    private static long LiveTensors()
    {
        for (int i = 0; i < 3; i++)
        {
            GC.Collect();
            GC.WaitForPendingFinalizers();
        }

        return Tensor.TotalCount;
    }

    private static long ResidentBytes()
    {
        using var process = Process.GetCurrentProcess();
        return process.WorkingSet64;
    }
}

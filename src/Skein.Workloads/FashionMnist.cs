using Skein.Training.Data;
using Skein.Training.TensorParallelism;
using Skein.Workloads.Models;
using static TorchSharp.torch;

namespace Skein.Workloads;

/// <summary>
/// Fashion-MNIST (Xiao, Rasul and Vollgraf 2017): 60,000 training and 10,000 test images of clothing, 28×28 pixels, ten classes.
/// Pixels stay bytes in memory and are normalized when a batch is taken.
/// </summary>
internal static class FashionMnist
{
    // Of the training images, with pixels scaled to 0..1.
    private const double Mean = 0.2860;
    private const double StandardDeviation = 0.3530;

    internal static Workload Workload { get; } = new()
    {
        Name = "fashion-mnist",
        Description = "60,000 + 10,000 images of clothing of 28×28 pixels",
        Models =
        [
            new("cnn", _ => Cnn.Create()),
            new("mlp", _ => nn.Sequential([nn.Flatten(), .. Mlp.Layers(784, 512, 512, 10)]), TensorPlan: TensorParallelPlan.Mlp),
            new("resnet18", _ => new ResNet18(channels: 1, classes: 10)),
        ],
        LoadDataAsync = LoadAsync,
        External = FashionMnistFiles.Data,
        Defaults = new Hyperparameters(Epochs: 3, BatchSize: 96, Optimizer: "momentum", LearningRate: 0.04, WarmupSteps: 400),
    };

    private static async Task<WorkloadData> LoadAsync(CancellationToken cancellationToken)
    {
        string directory = await FashionMnistFiles.Published.FetchAsync(progress: null, cancellationToken).ConfigureAwait(false);
        return new WorkloadData(Read(directory, "train", 60_000), Read(directory, "t10k", 10_000));
    }

    private static InMemoryDataset Read(string directory, string part, int count)
    {
        Tensor images = IdxFile.Read(Path.Combine(directory, $"{part}-images-idx3-ubyte.gz"), count, 28, 28);
        using Tensor labels = IdxFile.Read(Path.Combine(directory, $"{part}-labels-idx1-ubyte.gz"), count);
        using (images)
        {
            return new InMemoryDataset(images.unsqueeze(1), labels.to(int64), Normalize);
        }
    }

    private static Tensor Normalize(Tensor pixels) =>
        ImageLayout.ChannelsLast(pixels.to(float32).sub_(255 * Mean).mul_(1 / (255 * StandardDeviation)));
}

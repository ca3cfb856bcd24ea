using static TorchSharp.torch;

namespace Skein.Workloads.Models;

/// <summary>A small convolutional network for [n, 1, 28, 28]: 206,922 parameters.</summary>
internal static class Cnn
{
    internal static nn.Module<Tensor, Tensor> Create() => nn.Sequential(
        nn.Conv2d(1, 16, 3, padding: 1), nn.ReLU(), nn.MaxPool2d(2),    // [n, 16, 14, 14]
        nn.Conv2d(16, 32, 3, padding: 1), nn.ReLU(), nn.MaxPool2d(2),   // [n, 32, 7, 7]
        nn.Flatten(), nn.Linear(32 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, 10));
}

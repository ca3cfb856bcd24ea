using Skein.Training;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Workloads.Models;

/// <summary>
/// The 18-layer residual network (He et al. 2016, "Deep residual learning for image recognition") for small images: the first
/// convolution is 3×3 with stride 1 and no pooling follows it, as in the paper's networks for CIFAR-10.
/// </summary>
internal sealed class ResNet18 : nn.Module<Tensor, Tensor>, ILayeredModel
{
    private readonly ModuleList<nn.Module<Tensor, Tensor>> layers;

    internal ResNet18(int channels, int classes)
        : base(nameof(ResNet18))
    {
        layers = nn.ModuleList<nn.Module<Tensor, Tensor>>(
            nn.Conv2d(channels, 64, 3, padding: 1, bias: false), nn.BatchNorm2d(64), nn.ReLU(),
            new ResidualBlock(64, 64, 1), new ResidualBlock(64, 64, 1),         // [n, 64, h, w]
            new ResidualBlock(64, 128, 2), new ResidualBlock(128, 128, 1),      // [n, 128, h/2, w/2]
            new ResidualBlock(128, 256, 2), new ResidualBlock(256, 256, 1),     // [n, 256, h/4, w/4]
            new ResidualBlock(256, 512, 2), new ResidualBlock(512, 512, 1),     // [n, 512, h/8, w/8]
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes));
        RegisterComponents();
    }

    /// <inheritdoc/>
    public ModuleList<nn.Module<Tensor, Tensor>> Layers => layers;

    /// <inheritdoc/>
    public override Tensor forward(Tensor input)
    {
        foreach (nn.Module<Tensor, Tensor> layer in layers) input = layer.call(input);
        return input;
    }
}

/// <summary>Two 3×3 convolutions, added to their input; a 1×1 convolution adapts the input where the shape changes.</summary>
internal sealed class ResidualBlock : nn.Module<Tensor, Tensor>
{
    private readonly Sequential residual;
    private readonly Sequential? shortcut;

    internal ResidualBlock(int inputs, int outputs, int stride)
        : base(nameof(ResidualBlock))
    {
        residual = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding: 1, bias: false), nn.BatchNorm2d(outputs), nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding: 1, bias: false), nn.BatchNorm2d(outputs));
        if (stride != 1 || inputs != outputs)
        {
            shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias: false), nn.BatchNorm2d(outputs));
        }

        RegisterComponents();
    }

    /// <inheritdoc/>
    public override Tensor forward(Tensor input) => residual.call(input).add_(shortcut is null ? input : shortcut.call(input)).relu_();
}

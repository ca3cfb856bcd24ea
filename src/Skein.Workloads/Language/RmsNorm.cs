using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Workloads.Language;

/// <summary>
/// x / √(mean(x²) + ε) · weight over the last dimension, in float32 whatever the input's type (Zhang and Sennrich 2019, "Root mean square
/// layer normalization", equation 4).
/// </summary>
internal sealed class RmsNorm : nn.Module<Tensor, Tensor>
{
    private const double Epsilon = 1e-5;
    private readonly Parameter weight;

    internal RmsNorm(int width)
        : base(nameof(RmsNorm))
    {
        weight = nn.Parameter(ones(width));
        RegisterComponents();
    }

    /// <inheritdoc/>
    public override Tensor forward(Tensor input)
    {
        using var scope = NewDisposeScope();
        Tensor single = input.to(float32);
        Tensor scale = single.square().mean([-1], keepdim: true).add(Epsilon).rsqrt();
        return (single * scale * weight).to(input.dtype).MoveToOuterDisposeScope();
    }
}

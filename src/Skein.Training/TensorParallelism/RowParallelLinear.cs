using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.TensorParallelism;

/// <summary>
/// A linear layer whose input features the ranks divide: Y = Σ X_i A_i (Shoeybi et al. 2019, section 3). From […, this rank's part of the
/// inputs] to […, outputs].
/// </summary>
internal sealed class RowParallelLinear : nn.Module<Tensor, Tensor>
{
    private readonly ParallelRegion region;
    private readonly Parameter weight;
    private readonly Parameter? bias;

    /// <param name="region">The ranks that divide it.</param>
    /// <param name="weight">This rank's part, [outputs, inputs / T].</param>
    /// <param name="bias">Whole, [outputs]: added to the sum.</param>
    internal RowParallelLinear(ParallelRegion region, Parameter weight, Parameter? bias)
        : base(nameof(RowParallelLinear))
    {
        this.region = region;
        this.weight = weight;
        this.bias = bias;
        RegisterComponents();
    }

    /// <inheritdoc/>
    public override Tensor forward(Tensor input)
    {
        using var scope = NewDisposeScope();
        Tensor output = region.Leave(nn.functional.linear(input, weight));
        return (bias is null ? output : output + bias).MoveToOuterDisposeScope();
    }
}

using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.TensorParallelism;

/// <summary>
/// A linear layer whose output features the ranks divide: Y_i = X A_i (Shoeybi et al. 2019, section 3). From […, inputs] to
/// […, this rank's part of the outputs].
/// </summary>
internal sealed class ColumnParallelLinear : nn.Module<Tensor, Tensor>
{
    private readonly ParallelRegion region;
    private readonly Parameter weight;
    private readonly Parameter? bias;
    private readonly bool entersRegion;
    private readonly long? gathered;

    /// <param name="region">The ranks that divide it.</param>
    /// <param name="weight">This rank's part, [outputs / T, inputs].</param>
    /// <param name="bias">This rank's part, [outputs / T].</param>
    /// <param name="entersRegion">Whether its input comes from outside of the region, and not from a module that has it enter for several layers at once.</param>
    /// <param name="gathered">The width of the whole output, where every rank is to have it; null to leave it divided.</param>
    internal ColumnParallelLinear(ParallelRegion region, Parameter weight, Parameter? bias, bool entersRegion, long? gathered)
        : base(nameof(ColumnParallelLinear))
    {
        this.region = region;
        this.weight = weight;
        this.bias = bias;
        this.entersRegion = entersRegion;
        this.gathered = gathered;
        RegisterComponents();
    }

    /// <inheritdoc/>
    public override Tensor forward(Tensor input)
    {
        using var scope = NewDisposeScope();
        Tensor output = nn.functional.linear(entersRegion ? region.Enter(input) : input, weight, bias);
        if (gathered is { } features) output = region.GatherFeatures(output, features);
        return output.MoveToOuterDisposeScope();
    }
}

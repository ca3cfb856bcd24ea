using static TorchSharp.torch;

namespace Skein.Workloads.Language;

/// <summary>
/// Turns pair i of a query or key at position m by the angle m · 10,000^(-2i/d), so that the product of a query and a key depends on the
/// distance between them only (Su et al. 2021, "RoFormer", equation 34). Not thread-safe.
/// </summary>
internal sealed class RotaryPositions(int headWidth) : IDisposable
{
    private const double Base = 10_000;

    // [positions, headWidth / 2], complex numbers of magnitude 1. No buffer of a module: those would follow its element type.
    private Tensor? rotations;

    /// <summary>Turns <paramref name="heads"/> [n, t, h, headWidth], which begin at position 0, in float32 whatever their type.</summary>
    internal Tensor Apply(Tensor heads)
    {
        using var scope = NewDisposeScope();
        long[] shape = heads.shape;
        Tensor pairs = heads.to(float32).reshape(shape[0], shape[1], shape[2], headWidth / 2, 2).view_as_complex();
        Tensor turned = pairs * For(shape[1], heads).unsqueeze(1);
        return turned.view_as_real().flatten(3).to(heads.dtype).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public void Dispose() => rotations?.Dispose();

    private Tensor For(long positions, Tensor heads)
    {
        if (rotations is null || rotations.shape[0] < positions || rotations.device_type != heads.device_type || rotations.device_index != heads.device_index)
        {
            rotations?.Dispose();
            double[] frequencies = [.. Enumerable.Range(0, headWidth / 2).Select(pair => Math.Pow(Base, -2.0 * pair / headWidth))];
            // In double: at far positions a float's angle would be off.
            Tensor angles = arange(positions, float64).outer(tensor(frequencies));
            rotations = polar(ones_like(angles), angles).to(complex64).to(heads.device).DetachFromDisposeScope();
        }

        return rotations.narrow(0, 0, positions);
    }
}

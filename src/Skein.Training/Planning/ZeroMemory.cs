namespace Skein.Training.Planning;

/// <summary>
/// The memory that a model's state takes on each of several data-parallel ranks (Rajbhandari et al. 2020, "ZeRO", section 5 and figure 1),
/// in closed form, without activations and buffers.
/// </summary>
/// <param name="ParameterBytes">Of one parameter: 4 in single precision, 2 in half.</param>
/// <param name="GradientBytes">Of its gradient.</param>
/// <param name="OptimizerBytes">Of what the optimizer keeps for it, K in the paper: 8 for Adam's two moments, 12 with a copy in single precision besides.</param>
public readonly record struct ZeroMemory(double ParameterBytes, double GradientBytes, double OptimizerBytes)
{
    /// <summary>The bytes on each rank.</summary>
    /// <param name="parameters">The number of parameters.</param>
    /// <param name="ranks">That share them, 1 or more.</param>
    /// <param name="stage">What they divide; null: nothing.</param>
    public double PerRank(double parameters, int ranks, ZeroStage? stage)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(ranks, 1);
        return parameters * (
            Share(ParameterBytes, ZeroStage.Parameters)
            + Share(GradientBytes, ZeroStage.Gradients)
            + Share(OptimizerBytes, ZeroStage.OptimizerState));

        double Share(double bytes, ZeroStage from) => stage >= from ? bytes / ranks : bytes;
    }
}

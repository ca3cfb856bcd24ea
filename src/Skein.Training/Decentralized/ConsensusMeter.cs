using System.Numerics.Tensors;
using Skein.Collectives;

namespace Skein.Training.Decentralized;

/// <summary>Averages the ranks' vectors exactly, and tells how far they were from the mean. Collective.</summary>
internal static class ConsensusMeter
{
    /// <summary>√(1/n Σ_i ‖x_i - x̄‖²), and x̄ in <paramref name="mean"/>, bitwise the same on every rank.</summary>
    public static double Measure(ProcessGroup group, ReadOnlySpan<float> own, Span<float> mean)
    {
        own.CopyTo(mean);
        group.AllReduce(mean, ReduceOperation.Average);
        double distance = TensorPrimitives.Distance(own, mean);
        Span<double> squares = [distance * distance];
        group.AllReduce(squares, ReduceOperation.Average);
        return Math.Sqrt(squares[0]);
    }
}

using System.Numerics;
using System.Runtime.InteropServices;

namespace Skein.Training.Optimizers;

/// <summary>The scalars of one Adam step.</summary>
internal readonly struct AdamCoefficients(
    double learningRate, double beta1, double beta2, double epsilon, double weightDecay, long step)
{
    public double Beta1 { get; } = beta1;

    public double Beta2 { get; } = beta2;

    public double Epsilon { get; } = epsilon;

    public double Decay { get; } = 1 - (learningRate * weightDecay);

    public double StepSize { get; } = learningRate / (1 - Math.Pow(beta1, step));

    public double RootOfBiasCorrection2 { get; } = Math.Sqrt(1 - Math.Pow(beta2, step));
}

/// <summary>Adam's update in one pass over memory.</summary>
internal static class AdamKernel
{
    /// <summary>Updates all spans, which are of equal length, but for the gradient.</summary>
    public static void Update<T>(Span<T> parameter, ReadOnlySpan<T> gradient, Span<T> mean, Span<T> meanSquare, AdamCoefficients scalars)
        where T : unmanaged, IRootFunctions<T>
    {
        T beta1 = T.CreateChecked(scalars.Beta1), beta2 = T.CreateChecked(scalars.Beta2);
        T rest1 = T.CreateChecked(1 - scalars.Beta1), rest2 = T.CreateChecked(1 - scalars.Beta2);
        T epsilon = T.CreateChecked(scalars.Epsilon), decay = T.CreateChecked(scalars.Decay);
        T stepSize = T.CreateChecked(scalars.StepSize), root = T.CreateChecked(scalars.RootOfBiasCorrection2);

        Span<Vector<T>> p = MemoryMarshal.Cast<T, Vector<T>>(parameter), m = MemoryMarshal.Cast<T, Vector<T>>(mean), v = MemoryMarshal.Cast<T, Vector<T>>(meanSquare);
        ReadOnlySpan<Vector<T>> g = MemoryMarshal.Cast<T, Vector<T>>(gradient);
        var vectorRoot = new Vector<T>(root);
        var vectorEpsilon = new Vector<T>(epsilon);
        for (int i = 0; i < p.Length; i++)
        {
            m[i] = (m[i] * beta1) + (g[i] * rest1);
            v[i] = (v[i] * beta2) + (g[i] * g[i] * rest2);
            p[i] = (p[i] * decay) - (m[i] / ((Vector.SquareRoot(v[i]) / vectorRoot) + vectorEpsilon) * stepSize);
        }

        for (int i = p.Length * Vector<T>.Count; i < parameter.Length; i++)
        {
            mean[i] = (mean[i] * beta1) + (gradient[i] * rest1);
            meanSquare[i] = (meanSquare[i] * beta2) + (gradient[i] * gradient[i] * rest2);
            parameter[i] = (parameter[i] * decay) - (mean[i] / ((T.Sqrt(meanSquare[i]) / root) + epsilon) * stepSize);
        }
    }
}

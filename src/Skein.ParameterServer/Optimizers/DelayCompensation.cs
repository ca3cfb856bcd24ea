using System.Numerics;
using System.Runtime.InteropServices;

namespace Skein.ParameterServer;

/// <summary>
/// Corrects a late gradient to first order, with λ g⊙g for the diagonal of the Hessian (Zheng et al. 2017,
/// "Asynchronous stochastic gradient descent with delay compensation", DC-ASGD, equation 10). Thread-safe.
/// </summary>
internal static class DelayCompensation
{
    /// <summary>g ← g + λ g⊙g⊙(current − pulled), in one pass over memory; all spans are of equal length.</summary>
    public static void Apply(Span<float> gradient, ReadOnlySpan<float> current, ReadOnlySpan<float> pulled, float lambda)
    {
        if (current.Length != gradient.Length || pulled.Length != gradient.Length)
            throw new ArgumentException($"a gradient of {gradient.Length} elements with {current.Length} current and {pulled.Length} pulled parameters; as many belong to it");

        Span<Vector<float>> g = MemoryMarshal.Cast<float, Vector<float>>(gradient);
        ReadOnlySpan<Vector<float>> now = MemoryMarshal.Cast<float, Vector<float>>(current), then = MemoryMarshal.Cast<float, Vector<float>>(pulled);
        for (int i = 0; i < g.Length; i++) g[i] += g[i] * g[i] * (now[i] - then[i]) * lambda;
        for (int i = g.Length * Vector<float>.Count; i < gradient.Length; i++) gradient[i] += gradient[i] * gradient[i] * (current[i] - pulled[i]) * lambda;
    }
}

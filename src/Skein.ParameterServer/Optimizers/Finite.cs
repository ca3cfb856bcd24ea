using System.Numerics;
using System.Runtime.InteropServices;

namespace Skein.ParameterServer;

/// <summary>Finds gradients that would destroy the parameters. Thread-safe.</summary>
internal static class Finite
{
    private const int Magnitude = 0x7FFF_FFFF;
    private const int Infinity = 0x7F80_0000;

    /// <summary>Whether no value is infinite or not a number, at the speed of memory.</summary>
    public static bool All(ReadOnlySpan<float> values)
    {
        // Without the sign, infinity and NaNs are the integers from Infinity up.
        ReadOnlySpan<Vector<int>> vectors = MemoryMarshal.Cast<float, Vector<int>>(values);
        var magnitude = new Vector<int>(Magnitude);
        Vector<int> a = default, b = default, c = default, d = default;
        int i = 0;
        for (; i <= vectors.Length - 4; i += 4)
        {
            a = Vector.Max(a, vectors[i] & magnitude);
            b = Vector.Max(b, vectors[i + 1] & magnitude);
            c = Vector.Max(c, vectors[i + 2] & magnitude);
            d = Vector.Max(d, vectors[i + 3] & magnitude);
        }

        for (; i < vectors.Length; i++) a = Vector.Max(a, vectors[i] & magnitude);
        a = Vector.Max(Vector.Max(a, b), Vector.Max(c, d));
        if (Vector.GreaterThanOrEqualAny(a, new Vector<int>(Infinity))) return false;

        foreach (float value in values[(vectors.Length * Vector<int>.Count)..])
        {
            if (!float.IsFinite(value)) return false;
        }

        return true;
    }
}

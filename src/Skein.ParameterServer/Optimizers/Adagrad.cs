using System.Numerics;
using System.Runtime.CompilerServices;

namespace Skein.ParameterServer;

/// <summary>s ← s + g²; p ← p − η g / (√s + ε).</summary>
internal readonly struct Adagrad(float learningRate, double epsilon) : IUpdateFormula<float>
{
    private readonly Vector<float> learningRate = new(learningRate);
    private readonly Vector<float> epsilon = new((float)epsilon);

    public static int StateVectors => 1;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void Update(ref Vector<float> parameter, Vector<float> gradient, ref Vector<float> sumOfSquares, ref Vector<float> second, ref Vector<float> third)
    {
        sumOfSquares += gradient * gradient;
        parameter -= learningRate * gradient / (Vector.SquareRoot(sumOfSquares) + epsilon);
    }
}

using System.Numerics;
using System.Runtime.CompilerServices;

namespace Skein.ParameterServer;

/// <summary>p ← p − η g.</summary>
internal readonly struct GradientDescent(float learningRate) : IUpdateFormula<float>
{
    private readonly Vector<float> learningRate = new(learningRate);

    public static int StateVectors => 0;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void Update(ref Vector<float> parameter, Vector<float> gradient, ref Vector<float> first, ref Vector<float> second, ref Vector<float> third) =>
        parameter -= learningRate * gradient;
}

/// <summary>v ← μ v + g; p ← p − η v. As v starts at 0, the first update is g, as torch has it.</summary>
internal readonly struct MomentumDescent(float learningRate, double momentum) : IUpdateFormula<float>
{
    private readonly Vector<float> learningRate = new(learningRate);
    private readonly Vector<float> momentum = new((float)momentum);

    public static int StateVectors => 1;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void Update(ref Vector<float> parameter, Vector<float> gradient, ref Vector<float> velocity, ref Vector<float> second, ref Vector<float> third)
    {
        velocity = (velocity * momentum) + gradient;
        parameter -= learningRate * velocity;
    }
}

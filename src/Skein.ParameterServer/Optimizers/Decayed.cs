using System.Numerics;
using System.Runtime.CompilerServices;

namespace Skein.ParameterServer;

/// <summary>Another formula, with g + λ p for its gradient.</summary>
internal readonly struct Decayed<TFormula>(TFormula formula, double weightDecay) : IUpdateFormula<float>
    where TFormula : struct, IUpdateFormula<float>
{
    private readonly TFormula formula = formula;
    private readonly Vector<float> weightDecay = new((float)weightDecay);

    public static int StateVectors => TFormula.StateVectors;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void Update(ref Vector<float> parameter, Vector<float> gradient, ref Vector<float> first, ref Vector<float> second, ref Vector<float> third) =>
        formula.Update(ref parameter, gradient + (weightDecay * parameter), ref first, ref second, ref third);
}

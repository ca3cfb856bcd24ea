using System.Numerics;
using System.Runtime.CompilerServices;

namespace Skein.ParameterServer;

/// <summary>Update number <c>step</c>, from 1, of Adam with decoupled weight decay; without decay it is plain Adam.</summary>
internal readonly struct Adam<T>(double learningRate, double beta1, double beta2, double epsilon, double weightDecay, long step)
    : IUpdateFormula<T>
    where T : unmanaged, INumberBase<T>
{
    private readonly Vector<T> beta1 = Broadcast(beta1);
    private readonly Vector<T> beta2 = Broadcast(beta2);
    private readonly Vector<T> rest1 = Broadcast(1 - beta1);
    private readonly Vector<T> rest2 = Broadcast(1 - beta2);
    private readonly Vector<T> epsilon = Broadcast(epsilon);
    private readonly Vector<T> decay = Broadcast(1 - (learningRate * weightDecay));
    private readonly Vector<T> stepSize = Broadcast(learningRate / (1 - Math.Pow(beta1, step)));
    private readonly Vector<T> rootOfBiasCorrection2 = Broadcast(Math.Sqrt(1 - Math.Pow(beta2, step)));

    public static int StateVectors => 2;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void Update(ref Vector<T> parameter, Vector<T> gradient, ref Vector<T> mean, ref Vector<T> meanSquare, ref Vector<T> third)
    {
        Moments(gradient, ref mean, ref meanSquare);
        Descend(ref parameter, mean, meanSquare);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void Moments(Vector<T> gradient, ref Vector<T> mean, ref Vector<T> meanSquare)
    {
        mean = (mean * beta1) + (gradient * rest1);
        meanSquare = (meanSquare * beta2) + (gradient * gradient * rest2);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void Descend(ref Vector<T> parameter, Vector<T> mean, Vector<T> meanSquare) =>
        parameter = (parameter * decay) - (mean / ((Vector.SquareRoot(meanSquare) / rootOfBiasCorrection2) + epsilon) * stepSize);

    private static Vector<T> Broadcast(double value) => new(T.CreateChecked(value));
}

/// <summary>Adam that divides by the largest mean square seen so far (Reddi et al. 2018; its bias is corrected, as in torch).</summary>
internal readonly struct AmsGrad(Adam<float> adam) : IUpdateFormula<float>
{
    public static int StateVectors => 3;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void Update(ref Vector<float> parameter, Vector<float> gradient, ref Vector<float> mean, ref Vector<float> meanSquare, ref Vector<float> largest)
    {
        adam.Moments(gradient, ref mean, ref meanSquare);
        largest = Vector.Max(largest, meanSquare);
        adam.Descend(ref parameter, mean, largest);
    }
}

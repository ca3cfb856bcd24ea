namespace Skein.ParameterServer;

/// <summary>An optimizer without its state, for a slice of a dense parameter and for a row of a table alike. Thread-safe.</summary>
internal sealed class UpdateRule(ServerOptimizerOptions options)
{
    public ServerOptimizerOptions Options => options;

    /// <summary>How many values of state a parameter has; all start at 0.</summary>
    public int StateVectors { get; } = options.Kind switch
    {
        ServerOptimizerKind.Sgd => GradientDescent.StateVectors,
        ServerOptimizerKind.Momentum => MomentumDescent.StateVectors,
        ServerOptimizerKind.Adam => options.AmsGrad ? AmsGrad.StateVectors : Adam<float>.StateVectors,
        ServerOptimizerKind.Adagrad => Adagrad.StateVectors,
        _ => throw new ArgumentOutOfRangeException(nameof(options), options.Kind, "is no server optimizer"),
    };

    /// <summary>Applies update number <paramref name="update"/>, counted from 1.</summary>
    /// <param name="parameters">The parameters.</param>
    /// <param name="gradient">As many.</param>
    /// <param name="state"><see cref="StateVectors"/> times as many: one vector after the other.</param>
    /// <param name="learningRate">The step size.</param>
    /// <param name="update">What Adam corrects its bias by.</param>
    public void Apply(Span<float> parameters, ReadOnlySpan<float> gradient, Span<float> state, float learningRate, long update)
    {
        int length = parameters.Length;
        if (gradient.Length != length || state.Length != (long)length * StateVectors)
            throw new ArgumentException($"{length} parameters with a gradient of {gradient.Length} and {state.Length} values of state; as many and {StateVectors} times as many belong to them");

        switch (options.Kind)
        {
            case ServerOptimizerKind.Sgd:
                Run(new GradientDescent(learningRate), parameters, gradient);
                break;
            case ServerOptimizerKind.Momentum:
                Run(new MomentumDescent(learningRate, options.Momentum), parameters, gradient, state);
                break;
            case ServerOptimizerKind.Adagrad:
                Run(new Adagrad(learningRate, options.Epsilon), parameters, gradient, state);
                break;
            default:
                var adam = new Adam<float>(learningRate, options.Beta1, options.Beta2, options.Epsilon, 0, update);
                Span<float> mean = state[..length], meanSquare = state.Slice(length, length);
                if (options.AmsGrad) Run(new AmsGrad(adam), parameters, gradient, mean, meanSquare, state[(2 * length)..]);
                else Run(adam, parameters, gradient, mean, meanSquare);
                break;
        }
    }

    private void Run<TFormula>(
        TFormula formula, Span<float> parameters, ReadOnlySpan<float> gradient, Span<float> first = default, Span<float> second = default, Span<float> third = default)
        where TFormula : struct, IUpdateFormula<float>
    {
        if (options.WeightDecay == 0) OptimizerKernel.Update(formula, parameters, gradient, first, second, third);
        else OptimizerKernel.Update(new Decayed<TFormula>(formula, options.WeightDecay), parameters, gradient, first, second, third);
    }
}

namespace Skein.ParameterServer.Tests;

/// <summary>One parameter under an optimizer, by the formulas of torch's documentation in double precision.</summary>
internal sealed class Reference(ServerOptimizerOptions options, double parameter)
{
    private double first;
    private double second;
    private double largest;
    private int updates;

    public double Parameter { get; private set; } = parameter;

    public void Update(double gradient, double learningRate)
    {
        updates++;
        Parameter -= learningRate * options.Kind switch
        {
            ServerOptimizerKind.Sgd => gradient,
            ServerOptimizerKind.Momentum => first = updates == 1 ? gradient : (options.Momentum * first) + gradient,
            ServerOptimizerKind.Adagrad => gradient / (Math.Sqrt(first += gradient * gradient) + options.Epsilon),
            _ => Adam(gradient),
        };
    }

    private double Adam(double gradient)
    {
        first = (options.Beta1 * first) + ((1 - options.Beta1) * gradient);
        second = (options.Beta2 * second) + ((1 - options.Beta2) * gradient * gradient);
        largest = Math.Max(largest, second);
        double mean = first / (1 - Math.Pow(options.Beta1, updates));
        double square = (options.AmsGrad ? largest : second) / (1 - Math.Pow(options.Beta2, updates));
        return mean / (Math.Sqrt(square) + options.Epsilon);
    }
}

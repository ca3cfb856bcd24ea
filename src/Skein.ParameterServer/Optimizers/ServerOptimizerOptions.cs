using System.Runtime.CompilerServices;

namespace Skein.ParameterServer;

/// <summary>The update rules that a server can run.</summary>
public enum ServerOptimizerKind
{
    /// <summary>Stochastic gradient descent.</summary>
    Sgd,

    /// <summary>Stochastic gradient descent with heavy-ball momentum (Polyak 1964), without dampening.</summary>
    Momentum,

    /// <summary>Adam (Kingma and Ba 2015), with or without AMSGrad (Reddi et al. 2018).</summary>
    Adam,

    /// <summary>Adagrad (Duchi et al. 2011).</summary>
    Adagrad,
}

/// <summary>An update rule and its constants; formulas and defaults are those of <c>torch.optim</c>.</summary>
public sealed record ServerOptimizerOptions
{
    private readonly double? epsilon;

    /// <summary>The update rule.</summary>
    public ServerOptimizerKind Kind { get; init; }

    /// <summary>How much of the velocity <see cref="ServerOptimizerKind.Momentum"/> keeps in each update, from 0 to below 1.</summary>
    public double Momentum { get; init => field = Fraction(value); } = 0.9;

    /// <summary>How much of the gradient's mean Adam keeps in each update, from 0 to below 1.</summary>
    public double Beta1 { get; init => field = Fraction(value); } = 0.9;

    /// <summary>How much of the gradient's mean square Adam keeps in each update, from 0 to below 1.</summary>
    public double Beta2 { get; init => field = Fraction(value); } = 0.999;

    /// <summary>Added to the denominator of Adam (by default 1e-8) and Adagrad (1e-10); at least 0.</summary>
    public double Epsilon
    {
        get => epsilon ?? (Kind == ServerOptimizerKind.Adagrad ? 1e-10 : 1e-8);
        init => epsilon = value >= 0 && double.IsFinite(value) ? value : throw new ArgumentOutOfRangeException(nameof(Epsilon), value, "must be at least 0");
    }

    /// <summary>Whether Adam divides by the largest mean square seen so far (Reddi et al. 2018).</summary>
    public bool AmsGrad { get; init; }

    /// <summary>
    /// How much of each parameter is added to its gradient, at least 0 (L2 regularisation, as torch's optimizers have it). Rows of
    /// tables decay only in the updates that name them.
    /// </summary>
    public double WeightDecay
    {
        get;
        init => field = value >= 0 && double.IsFinite(value) ? value : throw new ArgumentOutOfRangeException(nameof(WeightDecay), value, "must be at least 0");
    }

    /// <summary>Reads <c>sgd</c>, <c>momentum</c>, <c>adam</c>, <c>amsgrad</c> (Adam with <see cref="AmsGrad"/>) or <c>adagrad</c>.</summary>
    /// <exception cref="FormatException">It is none of these.</exception>
    public static ServerOptimizerOptions Parse(string kind) => kind switch
    {
        "sgd" => new() { Kind = ServerOptimizerKind.Sgd },
        "momentum" => new() { Kind = ServerOptimizerKind.Momentum },
        "adam" => new() { Kind = ServerOptimizerKind.Adam },
        "amsgrad" => new() { Kind = ServerOptimizerKind.Adam, AmsGrad = true },
        "adagrad" => new() { Kind = ServerOptimizerKind.Adagrad },
        _ => throw new FormatException($"unknown server optimizer '{kind}'; choose sgd, momentum, adam, amsgrad or adagrad"),
    };

    private static double Fraction(double value, [CallerMemberName] string name = "") =>
        value is >= 0 and < 1 ? value : throw new ArgumentOutOfRangeException(name, value, "must be from 0 to below 1");
}

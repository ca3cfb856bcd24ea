using System.Globalization;
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
    private static readonly Dictionary<string, Setting> AllSettings = new()
    {
        ["momentum"] = new(
            static kind => kind == ServerOptimizerKind.Momentum,
            static options => options.Momentum,
            static (options, value) => options with { Momentum = value }),
        ["beta1"] = new(
            static kind => kind == ServerOptimizerKind.Adam,
            static options => options.Beta1,
            static (options, value) => options with { Beta1 = value }),
        ["beta2"] = new(
            static kind => kind == ServerOptimizerKind.Adam,
            static options => options.Beta2,
            static (options, value) => options with { Beta2 = value }),
        ["epsilon"] = new(
            static kind => kind is ServerOptimizerKind.Adam or ServerOptimizerKind.Adagrad,
            static options => options.Epsilon,
            static (options, value) => options with { Epsilon = value }),
        ["weight-decay"] = new(
            static _ => true,
            static options => options.WeightDecay,
            static (options, value) => options with { WeightDecay = value }),
    };

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

    /// <summary>
    /// Reads <c>sgd</c>, <c>momentum</c>, <c>adam</c>, <c>amsgrad</c> (Adam with <see cref="AmsGrad"/>) or <c>adagrad</c>, with settings
    /// behind it as in <c>adam,beta1=0.95,weight-decay=0.01</c>: <c>momentum</c>, <c>beta1</c>, <c>beta2</c>, <c>epsilon</c> and
    /// <c>weight-decay</c>, each where that optimizer has it.
    /// </summary>
    /// <exception cref="FormatException">It is none of these, or a setting is out of its range.</exception>
    public static ServerOptimizerOptions Parse(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        string[] parts = text.Split(',');
        return parts.Skip(1).Aggregate(ParseKind(parts[0]), static (options, part) => options.With(part));
    }

    /// <summary>
    /// As <see cref="Parse"/> reads it, with the settings that are not the default: equal for optimizers that update alike.
    /// </summary>
    public override string ToString()
    {
        string kind = Kind == ServerOptimizerKind.Adam && AmsGrad ? "amsgrad" : Kind.ToString().ToLowerInvariant();
        ServerOptimizerOptions usual = new() { Kind = Kind };
        return string.Concat(
        [
            kind, .. Settings.Where(setting => setting.Value.In(this) != setting.Value.In(usual))
                .Select(setting => $",{setting.Key}={setting.Value.In(this).ToString(CultureInfo.InvariantCulture)}"),
        ]);
    }

    // What this kind of optimizer can be told, by the name in its text.
    private IEnumerable<KeyValuePair<string, Setting>> Settings => AllSettings.Where(setting => setting.Value.Of(Kind));

    private ServerOptimizerOptions With(string part)
    {
        string[] sides = part.Split('=');
        if (sides.Length != 2 || !AllSettings.TryGetValue(sides[0], out Setting? setting) || !setting.Of(Kind))
        {
            string known = string.Join(", ", Settings.Select(static one => $"{one.Key}=VALUE"));
            throw new FormatException($"'{part}' is no setting of the server optimizer {this}: give {known}");
        }

        try
        {
            return setting.Set(this, double.Parse(sides[1], NumberStyles.Float, CultureInfo.InvariantCulture));
        }
        catch (Exception error) when (error is FormatException or ArgumentOutOfRangeException)
        {
            string range = sides[0] is "epsilon" or "weight-decay" ? "from 0" : "from 0 to below 1";
            throw new FormatException($"the server optimizer's {sides[0]} is '{sides[1]}': give a number {range}", error);
        }
    }

    private static ServerOptimizerOptions ParseKind(string kind) => kind switch
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

    /// <summary>A number that optimizers of some kinds have.</summary>
    private sealed record Setting(
        Func<ServerOptimizerKind, bool> Of,
        Func<ServerOptimizerOptions, double> In,
        Func<ServerOptimizerOptions, double, ServerOptimizerOptions> Set);
}

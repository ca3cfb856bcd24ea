using System.Globalization;

namespace Skein.ParameterServer;

/// <summary>
/// How much a gradient counts that was computed from parameters τ updates old. The default is <see cref="None"/>.
/// </summary>
public readonly record struct StalenessWeighting
{
    private const string Choices = "choose none, inverse, exponential:RATE or polynomial:ALPHA (RATE and ALPHA finite numbers above 0)";

    private readonly Family family;
    private readonly double parameter;

    private StalenessWeighting(Family family, double parameter = 0) => (this.family, this.parameter) = (family, parameter);

    private enum Family { None, Inverse, Exponential, Polynomial }

    /// <summary>Every gradient counts alike: 1.</summary>
    public static StalenessWeighting None => default;

    /// <summary>
    /// 1 / max(1, τ): Zhang et al. 2016, "Staleness-aware async-SGD for distributed deep learning", where the learning
    /// rate α becomes α / τ.
    /// </summary>
    public static StalenessWeighting Inverse => new(Family.Inverse);

    /// <summary>e^(−rate · τ).</summary>
    /// <param name="rate">Finite and above 0, per update.</param>
    /// <exception cref="ArgumentOutOfRangeException">The rate is not.</exception>
    public static StalenessWeighting Exponential(double rate) => new(Family.Exponential, Checked(rate, nameof(rate)));

    /// <summary>(1 + τ)^−alpha: Xie et al. 2019, "Asynchronous federated optimization" (FedAsync), section 5.2.</summary>
    /// <param name="alpha">Finite and above 0.</param>
    /// <exception cref="ArgumentOutOfRangeException">Alpha is not.</exception>
    public static StalenessWeighting Polynomial(double alpha) => new(Family.Polynomial, Checked(alpha, nameof(alpha)));

    /// <summary>Reads <c>none</c>, <c>inverse</c>, <c>exponential:RATE</c> or <c>polynomial:ALPHA</c>.</summary>
    /// <exception cref="FormatException">It is none of these.</exception>
    public static StalenessWeighting Parse(string value)
    {
        ArgumentNullException.ThrowIfNull(value);
        int colon = value.IndexOf(':', StringComparison.Ordinal);
        if (colon < 0)
        {
            if (value == "none") return None;
            if (value == "inverse") return Inverse;
        }
        else if (double.TryParse(value.AsSpan(colon + 1), NumberStyles.Float, CultureInfo.InvariantCulture, out double number) && IsValid(number))
        {
            if (value.AsSpan(0, colon) is "exponential") return Exponential(number);
            if (value.AsSpan(0, colon) is "polynomial") return Polynomial(number);
        }

        throw new FormatException($"unknown staleness weighting '{value}'; {Choices}");
    }

    /// <summary>The factor of a gradient, above 0 (but for rounding) and at most 1; it never rises with the staleness.</summary>
    /// <param name="staleness">τ: updates between the pull and the push that belong together, at least 0.</param>
    /// <exception cref="ArgumentOutOfRangeException">The staleness is negative.</exception>
    public double Weight(long staleness)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(staleness);
        return family switch
        {
            Family.Inverse => 1.0 / Math.Max(1, staleness),
            Family.Exponential => Math.Exp(-parameter * staleness),
            Family.Polynomial => Math.Pow(1.0 + staleness, -parameter),
            _ => 1,
        };
    }

    /// <summary>What <see cref="Parse"/> reads back.</summary>
    public override string ToString() => family switch
    {
        Family.Inverse => "inverse",
        Family.Exponential => string.Create(CultureInfo.InvariantCulture, $"exponential:{parameter}"),
        Family.Polynomial => string.Create(CultureInfo.InvariantCulture, $"polynomial:{parameter}"),
        _ => "none",
    };

    private static bool IsValid(double number) => double.IsFinite(number) && number > 0;

    private static double Checked(double number, string name) =>
        IsValid(number) ? number : throw new ArgumentOutOfRangeException(name, number, "must be finite and above 0");
}

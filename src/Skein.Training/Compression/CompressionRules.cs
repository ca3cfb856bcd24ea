namespace Skein.Training.Compression;

/// <summary>
/// Which parameters' gradients are compressed how, for example <c>topk:0.01;bias,norm=none</c>: a method for all, then
/// others for parameters whose names contain a text. Immutable.
/// </summary>
public sealed class CompressionRules
{
    private readonly List<(string Text, CompressionSpec Spec)> exceptions = [];

    private CompressionRules(CompressionSpec common) => Common = common;

    /// <summary>The method of parameters that no rule names.</summary>
    public CompressionSpec Common { get; }

    /// <summary>All methods that occur.</summary>
    public IEnumerable<CompressionSpec> Specs => exceptions.Select(static rule => rule.Spec).Prepend(Common).Distinct();

    /// <summary>Reads METHOD, or METHOD;TEXT[,TEXT…]=METHOD[;…].</summary>
    /// <exception cref="FormatException">A rule has no such form, or an unknown method; names it.</exception>
    public static CompressionRules Parse(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        string[] parts = text.Split(';');
        var rules = new CompressionRules(CompressionSpec.Parse(parts[0]));
        foreach (string part in parts.Skip(1))
        {
            string[] sides = part.Split('=');
            string[] names = sides[0].Split(',');
            if (sides.Length != 2 || names.Any(string.IsNullOrWhiteSpace)) throw new FormatException($"compression rule '{part}': write TEXT=METHOD, where TEXT occurs in parameters' names, for example bias,norm=none");
            CompressionSpec spec = CompressionSpec.Parse(sides[1]);
            if (spec.Method == CompressionMethod.Auto) throw new FormatException($"compression rule '{part}': auto is for all parameters together");
            rules.exceptions.AddRange(names.Select(name => (name, spec)));
        }

        return rules;
    }

    /// <summary>How the gradient of the parameter of this name is compressed: by the first rule with a text that occurs in it.</summary>
    public CompressionSpec Of(string parameter)
    {
        ArgumentNullException.ThrowIfNull(parameter);
        foreach ((string text, CompressionSpec spec) in exceptions)
        {
            if (parameter.Contains(text, StringComparison.Ordinal)) return spec;
        }

        return Common;
    }

    /// <summary>The rules' texts that occur in none of these names: of a misspelt rule nobody would notice that it does nothing.</summary>
    public IEnumerable<string> Unmatched(IEnumerable<string> parameters)
    {
        ArgumentNullException.ThrowIfNull(parameters);
        string[] names = [.. parameters];
        return exceptions.Select(static rule => rule.Text).Where(text => !names.Any(name => name.Contains(text, StringComparison.Ordinal)));
    }

    /// <summary>The same exceptions with another method for all others.</summary>
    internal CompressionRules With(CompressionSpec common)
    {
        var rules = new CompressionRules(common);
        rules.exceptions.AddRange(exceptions);
        return rules;
    }

    /// <summary>As <see cref="Parse"/> reads it.</summary>
    public override string ToString() => string.Join(';', exceptions.Select(static rule => $"{rule.Text}={rule.Spec}").Prepend($"{Common}"));
}

using System.CommandLine;
using System.CommandLine.Parsing;
using System.Globalization;
using System.Numerics;

namespace Skein.Cli;

/// <summary>
/// Numbers as all commands read them, the same in every culture: digits with a point for fractions, and perhaps an exponent.
/// No separators between digits, nothing infinite and no NaN.
/// </summary>
internal static class Numbers
{
    /// <summary>Makes every option of the command, and of those under it, that is a number be read like this.</summary>
    public static void ReadBy(Command command)
    {
        foreach (Option option in command.Options) ReadBy(option);
        foreach (Command under in command.Subcommands) ReadBy(under);
    }

    /// <summary>Reads a number of that type.</summary>
    public static bool TryParse<T>(ReadOnlySpan<char> text, out T value) where T : struct, INumber<T>
    {
        NumberStyles style = NumberStyles.AllowLeadingSign;
        if (!IsWhole<T>()) style |= NumberStyles.AllowDecimalPoint | NumberStyles.AllowExponent;
        return T.TryParse(text, style, CultureInfo.InvariantCulture, out value) && T.IsFinite(value);
    }

    private static void ReadBy(Option option)
    {
        switch (option)
        {
            case Option<int> number: number.CustomParser = Given<int>; break;
            case Option<int?> number: number.CustomParser = IfGiven<int>; break;
            case Option<long> number: number.CustomParser = Given<long>; break;
            case Option<long?> number: number.CustomParser = IfGiven<long>; break;
            case Option<float> number: number.CustomParser = Given<float>; break;
            case Option<double> number: number.CustomParser = Given<double>; break;
            case Option<double?> number: number.CustomParser = IfGiven<double>; break;
        }
    }

    private static T Given<T>(ArgumentResult result) where T : struct, INumber<T> => IfGiven<T>(result) ?? default;

    private static T? IfGiven<T>(ArgumentResult result) where T : struct, INumber<T>
    {
        if (result.Tokens is not [var token]) return null;
        if (TryParse(token.Value, out T value)) return value;
        string name = result.Parent is OptionResult { Option: { } option } ? option.Name : result.Argument.Name;
        string wanted = IsWhole<T>() ? "a whole number" : "a number, with a point as in 0.05";
        result.AddError($"Cannot parse argument '{token.Value}' for option '{name}': give {wanted}");
        return null;
    }

    private static bool IsWhole<T>() => typeof(T) != typeof(float) && typeof(T) != typeof(double);
}

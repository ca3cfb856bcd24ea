using System.Globalization;

namespace Skein.Cli.Plan;

/// <summary>Numbers of bytes with a binary unit.</summary>
internal static class ByteSize
{
    private static readonly (string Unit, double Bytes)[] Units = [("TiB", 1L << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

    /// <summary>Reads a number above 0 with its unit, as in <c>24GiB</c>.</summary>
    /// <exception cref="UsageException">It is none; names the option.</exception>
    public static long Parse(string option, string text)
    {
        foreach ((string unit, double bytes) in Units)
        {
            if (!text.EndsWith(unit, StringComparison.Ordinal)) continue;
            if (!double.TryParse(text.AsSpan(0, text.Length - unit.Length), NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture, out double number)) break;
            double size = number * bytes;
            if (size >= 1 && size < long.MaxValue) return (long)size;
            break;
        }

        throw new UsageException($"{option} is '{text}': give a number above 0 and its unit, as in 24GiB (B, KiB, MiB, GiB or TiB)");
    }

    /// <summary>For people.</summary>
    public static string Format(double bytes) => bytes >= 1L << 30
        ? string.Create(CultureInfo.InvariantCulture, $"{bytes / (1L << 30):0.00} GiB")
        : string.Create(CultureInfo.InvariantCulture, $"{bytes / (1L << 20):0} MiB");
}

using System.Globalization;

namespace Skein.Collectives;

/// <summary>
/// A slower network than there is, for experiments that can be repeated anywhere and without privileges: what each rank
/// sends leaves at a given rate, over all its peers together, and arrives a given time later. Immutable.
/// </summary>
/// <param name="BytesPerSecond">The rate at which a rank's bytes leave, above 0; infinity for no limit.</param>
/// <param name="Latency">How long a byte is on its way after it has left, from 0 to a minute.</param>
public sealed record NetworkEmulation(double BytesPerSecond, TimeSpan Latency)
{
    private static readonly TimeSpan LongestLatency = TimeSpan.FromMinutes(1);

    private static readonly (string Suffix, double Bits)[] Rates = [("Gbit", 1e9), ("Mbit", 1e6), ("Kbit", 1e3), ("bit", 1)];

    private static readonly (string Suffix, double Seconds)[] Times = [("ms", 1e-3), ("us", 1e-6), ("s", 1)];

    /// <summary>What <c>--emulate-bandwidth</c> and <c>--emulate-latency</c> say; null when both are null.</summary>
    /// <param name="bandwidth">Bits per second with a unit, as in <c>100Mbit</c>; <c>bit</c>, <c>Kbit</c>, <c>Mbit</c> and <c>Gbit</c> count in powers of 1000.</param>
    /// <param name="latency">With a unit, as in <c>20ms</c>; <c>us</c>, <c>ms</c> or <c>s</c>.</param>
    /// <exception cref="FormatException">One of them is none; says which, and what it should be.</exception>
    public static NetworkEmulation? Parse(string? bandwidth, string? latency)
    {
        if (bandwidth is null && latency is null) return null;
        double rate = bandwidth is null ? double.PositiveInfinity : Quantity(bandwidth, Rates) / 8 ?? 0;
        if (rate <= 0) throw new FormatException($"the emulated bandwidth is '{bandwidth}': give a number above 0 and its unit, as in 100Mbit (bit, Kbit, Mbit or Gbit per second)");
        double seconds = latency is null ? 0 : Quantity(latency, Times) ?? -1;
        if (seconds < 0 || seconds > LongestLatency.TotalSeconds) throw new FormatException($"the emulated latency is '{latency}': give a number and its unit, as in 20ms (us, ms or s), of at most a minute");
        return new NetworkEmulation(rate, TimeSpan.FromTicks((long)Math.Round(seconds * TimeSpan.TicksPerSecond)));
    }

    private static double? Quantity(string text, (string Suffix, double Factor)[] units)
    {
        foreach ((string suffix, double factor) in units)
        {
            if (!text.EndsWith(suffix, StringComparison.OrdinalIgnoreCase)) continue;
            return double.TryParse(text.AsSpan(0, text.Length - suffix.Length), NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture, out double number) && double.IsFinite(number)
                ? number * factor
                : null;
        }

        return null;
    }
}

using System.Globalization;

namespace Skein.ParameterServer;

/// <summary>
/// How far the fastest worker may run ahead of the slowest. A worker's clock is the number of steps that it has pushed;
/// its pull at clock c is served once no worker's clock is below c − <see cref="Bound"/>. The default is <see cref="Bsp"/>.
/// </summary>
/// <remarks>
/// Bulk-synchronous (BSP): Valiant 1990, "A bridging model for parallel computation". Stale synchronous (SSP): Ho et al.
/// 2013, "More effective distributed ML via a stale synchronous parallel parameter server". Asynchronous: Dean et al.
/// 2012, "Large scale distributed deep networks".
/// </remarks>
public readonly record struct Consistency
{
    private const string Choices = "choose bsp, ssp:BOUND (BOUND a whole number of steps from 0 to 2147483647) or async";
    private const int Unbounded = -1;

    private readonly int bound;

    private Consistency(int bound) => this.bound = bound;

    /// <summary>Every worker waits for all others after every step.</summary>
    public static Consistency Bsp => default;

    /// <summary>No worker ever waits for another.</summary>
    public static Consistency Async => new(Unbounded);

    /// <summary>The largest difference between two clocks, in steps: 0 if synchronous, null if there is no limit.</summary>
    public int? Bound => bound == Unbounded ? null : bound;

    /// <summary>Whether all workers compute every step from the same parameters.</summary>
    public bool Synchronous => bound == 0;

    /// <summary>Workers at most <paramref name="bound"/> steps apart.</summary>
    /// <param name="bound">In steps, at least 0, which is <see cref="Bsp"/>.</param>
    /// <exception cref="ArgumentOutOfRangeException">The bound is negative.</exception>
    public static Consistency Ssp(int bound)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(bound);
        return new Consistency(bound);
    }

    /// <summary>Reads <c>bsp</c>, <c>ssp:BOUND</c> or <c>async</c>.</summary>
    /// <exception cref="FormatException">It is none of these.</exception>
    public static Consistency Parse(string value) => value switch
    {
        "bsp" => Bsp,
        "async" => Async,
        ['s', 's', 'p', ':', .. var steps] when int.TryParse(steps, NumberStyles.None, CultureInfo.InvariantCulture, out int bound) => Ssp(bound),
        _ => throw new FormatException($"unknown consistency '{value}'; {Choices}"),
    };

    /// <summary>What <see cref="Parse"/> reads back.</summary>
    public override string ToString() => bound switch
    {
        0 => "bsp",
        Unbounded => "async",
        _ => string.Create(CultureInfo.InvariantCulture, $"ssp:{bound}"),
    };
}

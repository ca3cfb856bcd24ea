using System.Globalization;
using System.Text;
using Skein.Collectives;

namespace Skein.ParameterServer;

/// <summary>
/// Which server holds which elements of the dense parameters: a function of names, lengths and the number of servers
/// only, so that all processes find it without asking. Immutable.
/// </summary>
/// <remarks>
/// Parameters of 65,536 elements or more are split over all servers, as Li et al. 2014 ("Scaling distributed machine
/// learning with the parameter server") split key ranges; smaller ones stay whole and are placed by a
/// <see cref="PlacementRule"/>.
/// </remarks>
public sealed class Placement
{
    /// <summary>Parameters from this length on are split.</summary>
    private const long SplitFrom = 64 << 10;

    /// <summary>The bytes of a slice, and the number of a slice's values with an optimizer's state, fit an <see cref="int"/>.</summary>
    private const int LongestSlice = int.MaxValue / 8;

    private readonly ParameterSlice[][] byServer;
    private readonly long[] loads;

    private Placement(int servers, ParameterSlice[] slices)
    {
        Slices = slices;
        byServer = [.. Enumerable.Range(0, servers).Select(server => slices.Where(slice => slice.Server == server).ToArray())];
        loads = [.. byServer.Select(held => held.Sum(slice => (long)slice.Length))];
    }

    /// <summary>The number of servers.</summary>
    public int Servers => byServer.Length;

    /// <summary>All slices in layout order: by parameter as given, then by first element. Empty parameters have none.</summary>
    public IReadOnlyList<ParameterSlice> Slices { get; }

    /// <summary>Places parameters on servers.</summary>
    /// <param name="parameters">The parameters in layout order.</param>
    /// <param name="servers">The number of servers, at least 1.</param>
    /// <param name="rule">Where the small ones go.</param>
    /// <param name="allowIdle">Whether a server may hold no parameter, as where it has rows of tables to serve.</param>
    /// <exception cref="ArgumentException">
    /// Two parameters have one name, a length is negative, there is no server, or a server would hold nothing.
    /// </exception>
    public static Placement Create(IReadOnlyList<ParameterSpec> parameters, int servers, PlacementRule rule = PlacementRule.ByLoad, bool allowIdle = false)
    {
        ArgumentNullException.ThrowIfNull(parameters);
        if (servers < 1) throw new ArgumentException($"{servers} parameter servers; there must be at least 1", nameof(servers));
        var names = new HashSet<string>(StringComparer.Ordinal);
        foreach (ParameterSpec parameter in parameters)
        {
            if (parameter.Length < 0) throw new ArgumentException($"parameter '{parameter.Name}' has a length of {parameter.Length}; it must be at least 0", nameof(parameters));
            if (!names.Add(parameter.Name)) throw new ArgumentException($"two parameters are called '{parameter.Name}'; give each its own name", nameof(parameters));
        }

        int[] homes = rule switch
        {
            PlacementRule.ByLoad => HomesByLoad(parameters, servers),
            PlacementRule.ConsistentHash => HomesByHash(parameters, servers),
            _ => throw new ArgumentException($"{rule} is no rule of placement", nameof(rule)),
        };
        var placement = new Placement(servers, [.. parameters.Zip(homes, (parameter, home) => Slice(parameter, home, servers)).SelectMany(slices => slices)]);
        int idle = Array.IndexOf(placement.loads, 0);
        if (idle < 0 || allowIdle) return placement;
        throw new ArgumentException(
            rule == PlacementRule.ByLoad
                ? $"{servers} servers are more than the {parameters.Count} parameters need, and server {idle} would hold nothing; use fewer servers"
                : $"consistent hashing gives server {idle} of {servers} none of the {parameters.Count} parameters; use fewer servers, or {nameof(PlacementRule.ByLoad)}");
    }

    /// <summary>The slices that a server holds, in layout order: its dense vector is one after the other.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such server.</exception>
    public IReadOnlyList<ParameterSlice> On(int server) => byServer[Checked(server)];

    /// <summary>The number of elements that a server holds.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such server.</exception>
    public long LoadOf(int server) => loads[Checked(server)];

    /// <summary>A table of all slices by server, to be read by people.</summary>
    public override string ToString()
    {
        int width = Slices.Max(slice => slice.Parameter.Length);
        var text = new StringBuilder();
        for (int server = 0; server < Servers; server++)
        {
            text.AppendLine(CultureInfo.InvariantCulture, $"server {server}: {loads[server]:N0} elements ({(double)loads[server] / loads.Sum():P1})");
            foreach (ParameterSlice slice in byServer[server])
                text.AppendLine(CultureInfo.InvariantCulture, $"  {slice.Parameter.PadRight(width)}  {slice.Length,13:N0} from {slice.Start:N0}");
        }

        return text.ToString();
    }

    private static int[] HomesByLoad(IReadOnlyList<ParameterSpec> parameters, int servers)
    {
        var loads = new long[servers];
        foreach (ParameterSpec parameter in parameters.Where(IsSplit))
        {
            for (int server = 0; server < servers; server++) loads[server] += Partition.Length(parameter.Length, servers, server);
        }

        // A queue's order of equal priorities is undefined, so that the index belongs to the priority.
        var leastLoaded = new PriorityQueue<int, (long, int)>(loads.Select((load, server) => (server, (load, server))));
        var homes = new int[parameters.Count];
        foreach (int index in Enumerable.Range(0, homes.Length).Where(index => !IsSplit(parameters[index])).OrderByDescending(index => parameters[index].Length))
        {
            int server = homes[index] = leastLoaded.Dequeue();
            loads[server] += parameters[index].Length;
            leastLoaded.Enqueue(server, (loads[server], server));
        }

        return homes;
    }

    private static int[] HomesByHash(IReadOnlyList<ParameterSpec> parameters, int servers)
    {
        var ring = new HashRing(servers);
        return [.. parameters.Select(parameter => ring.ServerOf(parameter.Name))];
    }

    private static bool IsSplit(ParameterSpec parameter) => parameter.Length >= SplitFrom;

    private static IEnumerable<ParameterSlice> Slice(ParameterSpec parameter, int home, int servers) =>
        IsSplit(parameter)
            ? Enumerable.Range(0, servers).SelectMany(server => Slice(
                parameter.Name, Partition.Start(parameter.Length, servers, server), Partition.Length(parameter.Length, servers, server), server))
            : Slice(parameter.Name, 0, parameter.Length, home);

    private static IEnumerable<ParameterSlice> Slice(string parameter, long start, long length, int server)
    {
        for (long end = start + length; start < end; start += LongestSlice)
            yield return new ParameterSlice(parameter, start, (int)Math.Min(LongestSlice, end - start), server);
    }

    private int Checked(int server) =>
        server >= 0 && server < Servers ? server : throw new ArgumentOutOfRangeException(nameof(server), server, $"there are servers 0 to {Servers - 1}");
}

namespace Skein.Collectives;

/// <summary>The names of transports and algorithms in the environment and on the command line.</summary>
public static class OptionNames
{
    private static readonly Dictionary<string, TransportKind> Transports = new()
    {
        ["auto"] = TransportKind.Auto,
        ["tcp"] = TransportKind.Tcp,
        ["shm"] = TransportKind.SharedMemory,
        ["mpi"] = TransportKind.Mpi,
    };

    private static readonly Dictionary<string, AllReduceAlgorithm> Algorithms = new()
    {
        ["auto"] = AllReduceAlgorithm.Auto,
        ["ring"] = AllReduceAlgorithm.Ring,
        ["halving-doubling"] = AllReduceAlgorithm.HalvingDoubling,
        ["tree"] = AllReduceAlgorithm.Tree,
        ["hierarchical"] = AllReduceAlgorithm.Hierarchical,
        ["direct"] = AllReduceAlgorithm.Direct,
    };

    /// <summary>The transport called <paramref name="name"/>: auto, tcp, shm or mpi.</summary>
    /// <exception cref="FormatException">There is none of that name; lists those that there are.</exception>
    public static TransportKind ParseTransport(string name) => Parse(Transports, "transport", name);

    /// <summary>The algorithm called <paramref name="name"/>: auto, ring, halving-doubling, tree, hierarchical or direct.</summary>
    /// <exception cref="FormatException">There is none of that name; lists those that there are.</exception>
    public static AllReduceAlgorithm ParseAlgorithm(string name) => Parse(Algorithms, "algorithm", name);

    /// <summary>The name of a transport, as the command line and JSON spell it.</summary>
    public static string Of(TransportKind transport) => Transports.First(known => known.Value == transport).Key;

    /// <summary>The name of an algorithm, as the command line and JSON spell it.</summary>
    public static string Of(AllReduceAlgorithm algorithm) => Algorithms.First(known => known.Value == algorithm).Key;

    private static T Parse<T>(Dictionary<string, T> known, string what, string name) =>
        known.TryGetValue(name, out var value)
            ? value
            : throw new FormatException($"unknown {what} '{name}'; choose one of: {string.Join(", ", known.Keys)}");
}

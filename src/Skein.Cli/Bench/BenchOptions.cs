using System.CommandLine;
using System.Globalization;
using Skein.Collectives;

namespace Skein.Cli.Bench;

/// <summary>What <c>skein bench</c> was asked for.</summary>
internal sealed record BenchOptions
{
    public const string Ordinary = "ordinary";
    public const string Shared = "shared";

    private static readonly string[] Collectives = ["allreduce", "allgather", "reducescatter", "broadcast", "alltoall", "sendrecv"];

    private static readonly Dictionary<string, ElementType> Types = new()
    {
        ["float32"] = ElementType.Float32,
        ["float64"] = ElementType.Float64,
        ["float16"] = ElementType.Float16,
        ["bfloat16"] = ElementType.BFloat16,
        ["int32"] = ElementType.Int32,
        ["int64"] = ElementType.Int64,
        ["uint8"] = ElementType.UInt8,
    };

    private static readonly (string Unit, long Bytes)[] Units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

    private static readonly Argument<string> CollectiveSyntax = new("COLLECTIVE") { Description = string.Join(", ", Collectives) };
    private static readonly Option<int> ProcessesSyntax = new("-n", "--processes") { Description = "Processes to start", HelpName = "N", DefaultValueFactory = _ => 2 };
    private static readonly Option<string> SizesSyntax = new("--sizes") { Description = "What each rank contributes, separated by commas", HelpName = "S", DefaultValueFactory = _ => "4KiB,64KiB,1MiB,16MiB,100MiB" };
    private static readonly Option<string> TypeSyntax = new("--dtype") { Description = string.Join(", ", Types.Keys), HelpName = "T", DefaultValueFactory = _ => "float32" };
    private static readonly Option<string?> TransportSyntax = new("--transport") { Description = "auto, tcp, shm or mpi [default: auto]", HelpName = "T" };
    private static readonly Option<string?> AlgorithmSyntax = new("--algorithm") { Description = "auto, ring, halving-doubling, tree or hierarchical [default: auto]", HelpName = "A" };
    private static readonly Option<int?> IterationsSyntax = new("--iterations") { Description = "Timed calls per size [default: by size]", HelpName = "I" };
    private static readonly Option<string> BuffersSyntax = new("--buffers") { Description = "ordinary memory, or shared by the ranks", HelpName = "B", DefaultValueFactory = _ => Ordinary };
    private static readonly Option<bool> CalibrateSyntax = new("--calibrate") { Description = "Measure every all-reduce algorithm, and keep the fastest per size for 'auto'" };

    public required string Collective { get; init; }

    public required int Processes { get; init; }

    /// <summary>Whether that number was written on the command line.</summary>
    public required bool ProcessesWritten { get; init; }

    public required IReadOnlyList<long> Sizes { get; init; }

    public required ElementType Type { get; init; }

    public required string TypeName { get; init; }

    public TransportKind? Transport { get; init; }

    public AllReduceAlgorithm? Algorithm { get; init; }

    public int? Iterations { get; init; }

    public required bool SharedBuffers { get; init; }

    public required bool Calibrate { get; init; }

    public required bool Json { get; init; }

    public static Command Syntax(Func<BenchOptions, Task<int>> run)
    {
        var command = new Command("bench", "Measures a collective between local processes")
        {
            CollectiveSyntax, ProcessesSyntax, SizesSyntax, TypeSyntax, TransportSyntax, AlgorithmSyntax, IterationsSyntax, BuffersSyntax, CalibrateSyntax,
        };
        command.SetAction((parsed, _) => run(Read(parsed)));
        return command;
    }

    internal static BenchOptions Read(ParseResult parsed)
    {
        string collective = OneOf("collective", parsed.GetRequiredValue(CollectiveSyntax), Collectives);
        string typeName = OneOf("--dtype", parsed.GetRequiredValue(TypeSyntax), Types.Keys);
        string buffers = OneOf("--buffers", parsed.GetRequiredValue(BuffersSyntax), [Ordinary, Shared]);
        bool calibrate = parsed.GetValue(CalibrateSyntax);
        if (calibrate && collective != "allreduce") throw new UsageException($"--calibrate is for allreduce, not for {collective}");
        if (parsed.GetValue(IterationsSyntax) is { } iterations and < 1) throw new UsageException($"--iterations is {iterations}: give a whole number from 1");
        ElementType type = Types[typeName];
        try
        {
            return new BenchOptions
            {
                Collective = collective,
                Processes = CommandLine.AtLeastOne(parsed, ProcessesSyntax),
                ProcessesWritten = parsed.GetResult(ProcessesSyntax) is { Implicit: false },
                Sizes = [.. parsed.GetRequiredValue(SizesSyntax).Split(',').Select(size => ParseSize(size.Trim(), typeName, type.Size()))],
                Type = type,
                TypeName = typeName,
                Transport = parsed.GetValue(TransportSyntax) is { } transport ? OptionNames.ParseTransport(transport) : null,
                Algorithm = parsed.GetValue(AlgorithmSyntax) is { } algorithm ? OptionNames.ParseAlgorithm(algorithm) : null,
                Iterations = parsed.GetValue(IterationsSyntax),
                SharedBuffers = buffers == Shared,
                Calibrate = calibrate,
                Json = parsed.GetValue(CommonOptions.Json),
            };
        }
        catch (FormatException error)
        {
            throw new UsageException(error.Message);
        }
    }

    private static string OneOf(string what, string value, IEnumerable<string> known) =>
        known.Contains(value) ? value : throw new UsageException($"unknown {what} '{value}'; choose one of: {string.Join(", ", known)}");

    private static long ParseSize(string text, string typeName, int elementSize)
    {
        foreach ((string unit, long bytes) in Units)
        {
            if (!text.EndsWith(unit, StringComparison.Ordinal)) continue;
            bool isNumber = long.TryParse(text[..^unit.Length], NumberStyles.None, CultureInfo.InvariantCulture, out long count);
            if (!isNumber || count > long.MaxValue / bytes) break;
            long size = count * bytes;
            if (size % elementSize != 0) throw new UsageException($"--sizes has {text}, which is no whole number of {typeName} elements of {elementSize} bytes");
            if (size / elementSize > int.MaxValue / 4) throw new UsageException($"--sizes has {text}, more than the {int.MaxValue / 4:N0} elements that a buffer holds here");
            return size;
        }

        throw new UsageException($"--sizes has '{text}': give sizes like 4KiB,1MiB with the unit B, KiB, MiB or GiB");
    }
}

using System.CommandLine;
using Skein.Training.Data;
using Skein.Training.Decentralized;

namespace Skein.Cli;

/// <summary>The options of <c>--strategy gossip</c>.</summary>
internal static class GossipSyntax
{
    // The history thins itself out, so this bounds what measuring costs in a long run.
    private const int MeasureEvery = 10;

    private const string Average = "average";
    private const string Push = "push";

    private static readonly Option<string?> Mode = new("--gossip") { HelpName = "M", Description = "How neighbours talk: average, in step with each other, or push, where nobody waits and workers may be lost [default: average]" };
    private static readonly Option<string?> Topology = new("--topology") { HelpName = "T", Description = "Who talks to whom: ring, grid, exponential, random:DEGREE or complete [default: ring; exponential with --gossip push]" };
    private static readonly Option<double?> ConsensusStep = new("--consensus-step") { HelpName = "G", Description = "With --compression, how far a worker moves to its neighbours in each step, above 0 to 1 [default: 0.1]" };
    private static readonly Option<string?> Share = new("--partition") { HelpName = "P", Description = "Which data each worker has: iid, or dirichlet:ALPHA for labels in unequal shares [default: iid]" };

    public static IEnumerable<Option> All => [Mode, Topology, ConsensusStep, Share];

    /// <summary>The options that were written on the command line.</summary>
    public static IReadOnlyList<string> Given(ParseResult parsed) =>
        [.. All.Where(option => parsed.GetResult(option) is { Implicit: false }).Select(static option => option.Name)];

    /// <exception cref="UsageException">Something is unknown.</exception>
    public static GossipOptions Read(ParseResult parsed) => new()
    {
        Topology = parsed.GetValue(Topology) is { } topology ? Parsed(topology, GossipTopology.Parse) : ReadPush(parsed) ? GossipTopology.Parse("exponential") : GossipTopology.Ring,
        ConsensusStep = parsed.GetValue(ConsensusStep) ?? new GossipOptions().ConsensusStep,
        Seed = parsed.GetValue(CommonOptions.Seed),
        MeasureEvery = MeasureEvery,
    };

    /// <summary>Whether workers push rather than average.</summary>
    /// <exception cref="UsageException">It is neither, or does not go with another option.</exception>
    public static bool ReadPush(ParseResult parsed)
    {
        switch (parsed.GetValue(Mode))
        {
            case null or Average: return false;
            case Push when parsed.GetValue(ConsensusStep) is not null: throw new UsageException("--consensus-step needs --compression, which --gossip push has not");
            case Push: return true;
            case var other: throw new UsageException($"unknown way to gossip '{other}': give {Average} or {Push}");
        }
    }

    /// <exception cref="UsageException">It is unknown.</exception>
    public static DataPartition? ReadPartition(ParseResult parsed) => parsed.GetValue(Share) is { } text ? Parsed(text, DataPartition.Parse) : null;

    private static T Parsed<T>(string text, Func<string, T> parse)
    {
        try
        {
            return parse(text);
        }
        catch (FormatException error)
        {
            throw new UsageException(error.Message);
        }
    }
}

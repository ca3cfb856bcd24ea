using System.Globalization;
using Skein.Training;
using Skein.Training.Decentralized;

namespace Skein.Cli.Train;

/// <summary>What is told of decentralised training.</summary>
internal static class GossipUsage
{
    /// <summary>Says on stderr, before training, how fast the graph brings its peers together.</summary>
    public static void Announce(Gossip gossip, GossipOptions options) => Console.Error.WriteLine(
        string.Create(CultureInfo.InvariantCulture, $"gossip over {options.Topology} of {gossip.WorldSize}: spectral gap {gossip.Mixing.SpectralGap():0.0000}"));

    /// <summary>How the workers talk; null where they do not gossip.</summary>
    public static string? Name(TrainPlan plan) => plan.Gossip is null ? null : plan.Pushes ? "push" : "average";

    /// <summary>Adds the fields of stochastic gradient push.</summary>
    public static TrainSummary Add(TrainSummary summary, GossipPush push, GossipOptions options) => summary with
    {
        Gossip = "push",
        Topology = options.Topology.ToString(),
        ConsensusDistance = push.ConsensusDistance,
        Restarts = push.Restarts,
    };

    /// <summary>Adds gossip's fields; the history is of pairs of a step and the distance after it.</summary>
    public static TrainSummary Add(TrainSummary summary, Gossip gossip, GossipOptions options) => summary with
    {
        Gossip = "average",
        Compression = options.Compression.ToString(),
        Topology = options.Topology.ToString(),
        SpectralGap = gossip.Mixing.SpectralGap(),
        ConsensusDistance = gossip.ConsensusDistance,
        ConsensusHistory = [.. gossip.ConsensusHistory.Select(static value => new[] { value.Step, value.Distance })],
    };
}

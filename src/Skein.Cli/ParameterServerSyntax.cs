using System.CommandLine;
using Skein.Cli.Train;
using Skein.Collectives;
using Skein.Training.ParameterServers;

namespace Skein.Cli;

/// <summary>The options of a job with parameter servers, which <c>train</c> and <c>parameter-server coordinate</c> share.</summary>
internal static class ParameterServerSyntax
{
    private static readonly Option<int> Servers = Count("--servers", "S", "Server shards that the parameters are spread over");
    private static readonly Option<int> Replicas = Count("--replicas", "R", "Servers that hold each shard: 1, or 2 for a backup that takes over");
    private static readonly Option<string?> Consistency = Text("--consistency", "C", "bsp, ssp:BOUND or async [default: bsp]");
    private static readonly Option<string?> Weighting = Text("--staleness-weighting", "W", "none, inverse, exponential:RATE or polynomial:ALPHA [default: none]");
    private static readonly Option<string?> Optimizer = Text("--server-optimizer", "O", "sgd, momentum, adam or adagrad [default: that of train's --optimizer; sgd without it]");
    private static readonly Option<float> Compensation = new("--delay-compensation") { HelpName = "LAMBDA", Description = "Compensate the delay of gradients with this factor (DC-ASGD) [default: 0, not]" };
    private static readonly Option<bool> Balance = new("--balance") { Description = "Hand out the data as they are asked for, with async: slow workers get less, and workers may come and go" };
    private static readonly Option<int> Aggregate = Count("--aggregate", "K", "Add up the gradients of K workers of a host before they are pushed");
    private static readonly Option<bool> AllowNonFinite = new("--allow-non-finite")
    {
        Description = "Go on when the loss becomes NaN or infinite, and let servers apply such gradients",
    };


    private static readonly Option<string?> CheckpointDirectory = Text("--checkpoint-dir", "DIR", "Where the servers write their checkpoints");
    private static readonly Option<long?> CheckpointEvery = new("--checkpoint-every") { HelpName = "K", Description = "Updates between two checkpoints" };
    private static readonly Option<bool> Resume = new("--resume") { Description = "Begin with the parameters of the last checkpoint" };

    public static IEnumerable<Option> All =>
    [
        Servers, Replicas, Consistency, Weighting, Optimizer, Compensation, Balance, Aggregate, AllowNonFinite, CheckpointDirectory, CheckpointEvery, Resume,
    ];

    /// <summary>The options that were written on the command line and are for servers only.</summary>
    public static IReadOnlyList<string> Given(ParseResult parsed) =>
    [
        .. All.Where(option => option != AllowNonFinite && parsed.GetResult(option) is { Implicit: false })
            .Select(static option => option.Name),
    ];

    /// <summary>What was asked for, unchecked.</summary>
    public static ServerOptions Read(ParseResult parsed) => new()
    {
        Servers = parsed.GetValue(Servers),
        Replicas = parsed.GetValue(Replicas),
        Consistency = parsed.GetValue(Consistency) ?? "bsp",
        StalenessWeighting = parsed.GetValue(Weighting) ?? "none",
        Optimizer = parsed.GetValue(Optimizer),
        DelayCompensation = parsed.GetValue(Compensation),
        Balance = parsed.GetValue(Balance),
        Aggregate = parsed.GetValue(Aggregate),
        AllowNonFinite = parsed.GetValue(AllowNonFinite),
        CheckpointDirectory = parsed.GetValue(CheckpointDirectory),
        CheckpointEvery = parsed.GetValue(CheckpointEvery),
        Resume = parsed.GetValue(Resume),
    };

    /// <exception cref="UsageException">It is not HOST:PORT.</exception>
    public static (string Host, int Port) ParseCoordinator(string address)
    {
        try
        {
            return ParameterServerOptions.ParseAddress(address);
        }
        catch (RendezvousException error)
        {
            throw new UsageException(error.Message);
        }
    }

    private static Option<int> Count(string name, string helpName, string description) =>
        new(name) { HelpName = helpName, Description = $"{description} [default: 1]", DefaultValueFactory = _ => 1 };

    private static Option<string?> Text(string name, string helpName, string description) => new(name) { HelpName = helpName, Description = description };
}

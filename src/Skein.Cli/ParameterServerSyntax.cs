using System.CommandLine;
using System.Net;
using Skein.Cli.Train;
using Skein.Collectives;
using Skein.Hosting.ParameterServers;
using Skein.ParameterServer;
using Skein.Training.ParameterServers;

namespace Skein.Cli;

/// <summary>The options of a job with parameter servers: of <c>train</c>, <c>launch</c> and <c>parameter-server coordinate</c>.</summary>
internal static class ParameterServerSyntax
{
    /// <summary>The option that says how many servers.</summary>
    public const string ServersName = "--servers";

    private static readonly Option<int> Servers = Count(ServersName, "S", "Server shards that the parameters are spread over");
    private static readonly Option<int> Replicas = Count("--replicas", "R", "Servers that hold each shard: 1, or 2 for a backup that takes over");
    private static readonly Option<string?> Consistency = Text("--consistency", "C", "bsp, ssp:BOUND or async [default: bsp]");
    private static readonly Option<string?> Weighting = Text("--staleness-weighting", "W", "none, inverse, exponential:RATE or polynomial:ALPHA [default: none]");
    private static readonly Option<string?> Optimizer = Text(
        "--server-optimizer", "O",
        "sgd, momentum, adam, amsgrad or adagrad, with settings as in adam,weight-decay=0.01 "
        + "[default: that of train's --optimizer; sgd without it]");
    private static readonly Option<float> Compensation = new("--delay-compensation") { HelpName = "LAMBDA", Description = "Compensate the delay of gradients with this factor (DC-ASGD) [default: 0, not]" };
    private static readonly Option<bool> Balance = new("--balance") { Description = "Hand out the data as they are asked for, with async: slow workers get less, and workers may come and go" };
    private static readonly Option<int> Aggregate = Count("--aggregate", "K", "Add up the gradients of K workers of a host before they are pushed");
    private static readonly Option<bool> AllowNonFinite = new("--allow-non-finite") { Description = "Apply gradients with NaN or infinity too" };

    private static readonly Option<string?> CheckpointDirectory = Text("--checkpoint-dir", "DIR", "Where the servers write their checkpoints");
    private static readonly Option<long?> CheckpointEvery = new("--checkpoint-every") { HelpName = "K", Description = "Updates between two checkpoints" };
    private static readonly Option<bool> Resume = new("--resume") { Description = "Begin with the parameters of the last checkpoint" };

    public static IEnumerable<Option> All =>
    [
        Servers, Replicas, Consistency, Weighting, Optimizer, Compensation, Balance, Aggregate, AllowNonFinite, CheckpointDirectory, CheckpointEvery, Resume,
    ];

    /// <summary>The options that were written on the command line.</summary>
    public static IReadOnlyList<string> Given(ParseResult parsed) =>
        [.. All.Where(option => parsed.GetResult(option) is { Implicit: false }).Select(static option => option.Name)];

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

    /// <summary>The parameter servers of a job that this command launches, as processes of itself.</summary>
    /// <param name="server">What was asked for.</param>
    /// <param name="settings">What the members agree on.</param>
    /// <param name="started">Told where the members register.</param>
    public static ServerLaunch ToLaunch(ServerOptions server, JobSettings settings, Action<IPEndPoint> started)
    {
        (string program, string[] arguments) = ThisCommand.Read();
        return new ServerLaunch
        {
            Settings = settings,
            Replicas = server.Replicas,
            RanksPerWorker = server.Aggregate,
            Program = program,
            Arguments = [.. arguments[..ThisCommand.HostArguments], "parameter-server", "serve"],
            Started = started,
        };
    }

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

using System.CommandLine;
using System.Globalization;
using Skein.Collectives;
using Skein.Collectives.Rendezvous;
using Skein.Hosting;
using Skein.Hosting.ParameterServers;
using Skein.ParameterServer.Control;

namespace Skein.Cli;

/// <summary><c>skein launch</c>: any program, as the ranks of a job.</summary>
internal static class LaunchCommand
{
    private static readonly Option<int> Processes = new("-n", "--processes")
    {
        Description = "Processes to start on this node",
        HelpName = "N",
        Required = true,
    };

    private static readonly Option<int> Nodes = new("--nodes")
    {
        Description = "Nodes of the job, each started with the same -n",
        HelpName = "M",
        DefaultValueFactory = _ => 1,
    };

    private static readonly Option<int> NodeRank = new("--node-rank")
    {
        Description = "This node, from 0 to M - 1",
        HelpName = "R",
    };

    private static readonly Option<string?> Rendezvous = new("--rendezvous")
    {
        Description = "Where node 0 listens, as the other nodes reach it",
        HelpName = "HOST:PORT",
    };

    private static readonly Option<string?> EmulateBandwidth = new("--emulate-bandwidth")
    {
        Description = "Let each rank's bytes leave at this rate, as in 100Mbit, for experiments",
        HelpName = "RATE",
    };

    private static readonly Option<string?> EmulateLatency = new("--emulate-latency")
    {
        Description = "Let them arrive so much later, as in 20ms",
        HelpName = "TIME",
    };

    private static readonly Option<bool> TolerateLosses = new("--tolerate-losses")
    {
        Description = "Go on when ranks other than 0 fail, for programs that outlive it (stochastic gradient push)",
    };

    private static readonly Option<int> Restarts = new("--restarts")
    {
        Description = "With --tolerate-losses, how many times in all this node starts failed ranks again",
        HelpName = "N",
    };

    private static readonly Argument<string[]> Program = new("PROGRAM")
    {
        Description = "The program and its arguments, after --",
        Arity = ArgumentArity.OneOrMore,
        CaptureRemainingTokens = true,
    };

    public static Command Create()
    {
        var command = new Command("launch", "Starts a program as N ranks, and ends all when one fails")
        {
            Processes, Nodes, NodeRank, Rendezvous, TolerateLosses, Restarts, EmulateBandwidth, EmulateLatency, Program,
        };
        foreach (var option in ParameterServerSyntax.All) command.Add(option);
        command.SetAction(RunAsync);
        return command;
    }

    private static async Task<int> RunAsync(ParseResult parsed, CancellationToken cancellationToken)
    {
        var outcome = await Launcher.RunAsync(ReadOptions(parsed), cancellationToken);
        if (outcome.IsInterrupted || outcome.Failure is not { } failure) return outcome.ExitCode;
        IReadOnlyList<string> lines = outcome.FailedRank is { } rank ? outcome.LastLines[rank] : [];
        CommandLine.Report(lines.Count == 0 ? failure : $"{failure}; its last lines:");
        foreach (var line in lines) await Console.Error.WriteLineAsync($"[{outcome.FailedRank}] {line}");
        return outcome.ExitCode;
    }

    internal static LaunchOptions ReadOptions(ParseResult parsed)
    {
        var program = parsed.GetRequiredValue(Program);
        var processes = CommandLine.AtLeastOne(parsed, Processes);
        var nodes = CommandLine.AtLeastOne(parsed, Nodes);
        var nodeRank = parsed.GetValue(NodeRank);
        if (nodeRank < 0 || nodeRank >= nodes)
        {
            throw new UsageException($"--node-rank is {nodeRank}, but --nodes is {nodes}: give each node a number from 0 to {nodes - 1}");
        }

        var (host, port) = ParseRendezvous(parsed.GetValue(Rendezvous));
        if (nodes > 1 && host is null)
        {
            throw new UsageException($"--nodes is {nodes}: give --rendezvous HOST:PORT too, where node 0 is reached by the others");
        }

        var tolerates = parsed.GetValue(TolerateLosses);
        var restarts = CommandLine.NotNegative(parsed, Restarts);
        if (restarts > 0 && !tolerates) throw new UsageException($"--restarts is {restarts}, which needs --tolerate-losses: without it the first failure ends the job");

        // Only the job's own settings: under srun this process has a rank, which is not that of a worker.
        var settings = LauncherEnvironment.Read(
            name => name.StartsWith("SKEIN_", StringComparison.Ordinal) ? Environment.GetEnvironmentVariable(name) : null);
        var timeout = settings.Timeout;
        var servers = ReadServers(parsed, nodes * processes, timeout, settings.Secret is not null);
        var elastic = servers is { Settings.Elastic: true };
        return new LaunchOptions
        {
            Program = program[0],
            Arguments = program[1..],
            ProcessesPerNode = processes,
            Nodes = nodes,
            NodeRank = nodeRank,
            RendezvousHost = host,
            RendezvousPort = port,
            Secret = settings.Secret,
            Timeout = timeout,
            RunDirectory = parsed.GetValue(CommonOptions.RunDirectory),
            Servers = servers,
            SurvivesLossOf = rank => (tolerates || elastic) && rank != 0,
            Restarts = restarts,
            LossSurvived = CommandLine.Report,
            Logger = settings.Logger,
            Environment = ReadEmulation(parsed),
        };
    }

    private static ServerLaunch? ReadServers(ParseResult parsed, int ranks, TimeSpan timeout, bool canBeJoined)
    {
        var given = ParameterServerSyntax.Given(parsed);
        if (!given.Contains(ParameterServerSyntax.ServersName))
        {
            return given.Count == 0
                ? null
                : throw new UsageException(
                    $"{given[0]} needs {ParameterServerSyntax.ServersName} S: without it the job has no parameter servers");
        }

        if (parsed.GetValue(TolerateLosses))
        {
            throw new UsageException(
                $"--tolerate-losses cannot go with {ParameterServerSyntax.ServersName}: "
                + "give --consistency async --balance, with which workers may be lost");
        }

        var options = ParameterServerSyntax.Read(parsed);
        var settings = options.ToSettings(ranks, "sgd", 0, parsed.GetValue(CommonOptions.Seed), timeout);
        return ParameterServerSyntax.ToLaunch(options, settings, coordinator =>
        {
            if (!settings.Elastic || !canBeJoined) return;
            Console.Error.WriteLine(
                $"more workers join with the same SKEIN_JOB_SECRET and {CoordinatorClient.AddressVariable}={coordinator}");
        });
    }

    private static Dictionary<string, string> ReadEmulation(ParseResult parsed)
    {
        var variables = new Dictionary<string, string>();
        if (parsed.GetValue(EmulateBandwidth) is { } bandwidth) variables["SKEIN_EMULATE_BANDWIDTH"] = bandwidth;
        if (parsed.GetValue(EmulateLatency) is { } latency) variables["SKEIN_EMULATE_LATENCY"] = latency;
        try
        {
            NetworkEmulation.Parse(parsed.GetValue(EmulateBandwidth), parsed.GetValue(EmulateLatency));
            return variables;
        }
        catch (FormatException error)
        {
            throw new UsageException(error.Message);
        }
    }

    private static (string? Host, int Port) ParseRendezvous(string? text)
    {
        if (text is null) return (null, 0);
        var colon = text.LastIndexOf(':');
        if (colon > 0 && int.TryParse(text[(colon + 1)..], NumberStyles.None, CultureInfo.InvariantCulture, out var port) && port is > 0 and < 65536)
        {
            return (text[..colon].Trim('[', ']'), port);
        }

        throw new UsageException($"--rendezvous is '{text}': give HOST:PORT, as in 10.0.0.1:29500");
    }
}

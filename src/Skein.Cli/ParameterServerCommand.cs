using System.CommandLine;
using System.Net;
using System.Runtime.InteropServices;
using Skein.Cli.Train;
using Skein.Collectives;
using Skein.Collectives.Rendezvous;
using Skein.ParameterServer;
using Skein.ParameterServer.Control;
using Skein.Training.LibTorch;
using Skein.Training.ParameterServers;
using Skein.Workloads;

namespace Skein.Cli;

/// <summary><c>skein parameter-server</c>: the parts of a job with parameter servers, each to be started on its own host.</summary>
internal static class ParameterServerCommand
{
    private static readonly Option<string?> CoordinatorAddress = new("--coordinator")
    {
        HelpName = "HOST:PORT",
        Description = "The job's coordinator [default: SKEIN_COORDINATOR]",
    };

    private static readonly Option<string> Listen = new("--listen")
    {
        HelpName = "ADDRESS",
        Description = "Where to listen, as the other hosts reach it [default: 127.0.0.1]",
        DefaultValueFactory = _ => "127.0.0.1",
    };

    private static readonly Option<int> Port = new("--port") { HelpName = "P", Description = "The coordinator's port [default: the system chooses]" };
    private static readonly Option<int> Workers = new("--workers") { HelpName = "W", Description = "Workers that the job begins with", DefaultValueFactory = _ => 1 };
    private static readonly Option<int> Shards = new("--servers") { HelpName = "S", Description = "Server shards", DefaultValueFactory = _ => 1 };
    private static readonly Option<string?> Model = new("--model") { HelpName = "NAME", Description = "One of the workload's models [default: its first]" };
    private static readonly Option<PlacementRule> Rule = new("--rule") { HelpName = "R", Description = "ByLoad or ConsistentHash", DefaultValueFactory = _ => PlacementRule.ByLoad };
    private static readonly Argument<string> WorkloadName = new("WORKLOAD") { Description = "A workload, such as fashion-mnist" };

    public static Command Create()
    {
        var serve = new Command("serve", "Serves one shard of a job's parameters, until the job ends") { CoordinatorAddress, Listen };
        serve.SetAction(ServeAsync);
        var coordinate = new Command("coordinate", "Leads a job: its members register here") { Workers, Listen, Port };
        foreach (var option in ParameterServerSyntax.All) coordinate.Add(option);
        coordinate.SetAction(CoordinateAsync);
        var placement = new Command("placement", "Prints which server would hold which parameters") { WorkloadName, Model, Shards, Rule };
        placement.SetAction(PrintPlacement);
        return new Command("parameter-server", "Starts the parts of a job with parameter servers on hosts of their own") { serve, coordinate, placement };
    }

    private static async Task<int> ServeAsync(ParseResult parsed, CancellationToken cancellationToken)
    {
        string? address = parsed.GetValue(CoordinatorAddress) ?? Environment.GetEnvironmentVariable(ParameterServerOptions.CoordinatorVariable);
        if (string.IsNullOrEmpty(address)) throw new UsageException($"no coordinator: give --coordinator HOST:PORT, or set {ParameterServerOptions.CoordinatorVariable}");
        (string host, int port) = ParameterServerSyntax.ParseCoordinator(address);
        IPAddress listen = ParseListen(parsed);
        JobSecret secret = RequireSecret();
        using var interruption = new Interruptible(cancellationToken);
        await using var shard = await ParameterShard.StartAsync(new ParameterShardOptions
        {
            CoordinatorHost = host,
            CoordinatorPort = port,
            Secret = secret,
            Address = listen,
            Timeout = ReadTimeout(),
            Logger = new StandardErrorLogger(Microsoft.Extensions.Logging.LogLevel.Warning),
        }, interruption.Token);
        await shard.Completion.WaitAsync(interruption.Token);
        return 0;
    }

    private static async Task<int> CoordinateAsync(ParseResult parsed, CancellationToken cancellationToken)
    {
        int workers = CommandLine.AtLeastOne(parsed, Workers);
        ServerOptions server = ParameterServerSyntax.Read(parsed);
        JobSettings settings = server.ToSettings(workers, "sgd", 0, parsed.GetValue(CommonOptions.Seed), ReadTimeout());
        var listen = new IPEndPoint(ParseListen(parsed), ParsePort(parsed));
        JobSecret secret = RequireSecret();
        using var interruption = new Interruptible(cancellationToken);
        await using var coordinator = await Coordinator.StartAsync(new CoordinatorOptions
        {
            Secret = secret,
            Listen = listen,
            Servers = settings.Servers,
            Replicas = server.Replicas,
            Workers = settings.Workers,
            Elastic = settings.Elastic,
            Settings = settings.ToJson(),
        }, interruption.Token);
        await Console.Error.WriteLineAsync($"coordinator at {coordinator.Endpoint}");
        return await coordinator.Finished.WaitAsync(interruption.Token) is { } failure ? throw new ParameterServerException(failure) : 0;
    }

    private static int PrintPlacement(ParseResult parsed)
    {
        string name = parsed.GetRequiredValue(WorkloadName);
        Workload workload = Workload.Find(name) ?? throw new UsageException($"unknown workload '{name}'; choose one of: {string.Join(", ", Workload.All.Select(static known => known.Name))}");
        string modelName = parsed.GetValue(Model) ?? workload.Models[0].Name;
        if (!workload.Models.Any(known => known.Name == modelName)) throw new UsageException($"unknown model of {name} '{modelName}'; choose one of: {string.Join(", ", workload.Models.Select(static known => known.Name))}");
        int servers = CommandLine.AtLeastOne(parsed, Shards);
        NativeLibTorch.Load();
        using var model = workload.CreateModel(modelName, 0);
        ParameterSpec[] parameters = [.. model.named_parameters().Select(static entry => new ParameterSpec(entry.name, entry.parameter.numel()))];
        try
        {
            Console.Write(Placement.Create(parameters, servers, parsed.GetValue(Rule)));
            return 0;
        }
        catch (ArgumentException error)
        {
            throw new UsageException(CommandLine.Describe(error));
        }
    }

    private static TimeSpan ReadTimeout() => LauncherEnvironment.ReadTimeout() ?? TimeSpan.FromSeconds(300);

    private static JobSecret RequireSecret() => JobSecret.FromEnvironment()
        ?? throw new UsageException("no secret for the job: set SKEIN_JOB_SECRET (or SKEIN_JOB_SECRET_FILE) to the output of: openssl rand -hex 32, the same for every process");

    private static int ParsePort(ParseResult parsed) => parsed.GetValue(Port) is >= 0 and <= IPEndPoint.MaxPort and var port
        ? port
        : throw new UsageException($"--port is {parsed.GetValue(Port)}: give a number from 0 to {IPEndPoint.MaxPort}");

    private static IPAddress ParseListen(ParseResult parsed) => IPAddress.TryParse(parsed.GetRequiredValue(Listen), out IPAddress? address)
        ? address
        : throw new UsageException($"--listen is '{parsed.GetValue(Listen)}': give an IP address of this host");
}

/// <summary>A token that SIGINT and SIGTERM cancel too.</summary>
internal sealed class Interruptible : IDisposable
{
    private readonly CancellationTokenSource source;
    private readonly PosixSignalRegistration interrupt;
    private readonly PosixSignalRegistration terminate;

    public Interruptible(CancellationToken cancellationToken)
    {
        source = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        interrupt = PosixSignalRegistration.Create(PosixSignal.SIGINT, Stop);
        terminate = PosixSignalRegistration.Create(PosixSignal.SIGTERM, Stop);
    }

    public CancellationToken Token => source.Token;

    public void Dispose()
    {
        interrupt.Dispose();
        terminate.Dispose();
        // The source is left to the collector: a second signal may be under way.
    }

    private void Stop(PosixSignalContext context)
    {
        context.Cancel = true;
        source.Cancel();
    }
}

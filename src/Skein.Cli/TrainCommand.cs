using System.CommandLine;
using System.Runtime.InteropServices;
using Microsoft.Extensions.Logging;
using Skein.Cli.Train;
using Skein.Collectives;
using Skein.Collectives.Rendezvous;
using Skein.Hosting;
using Skein.ParameterServer;
using Skein.ParameterServer.Control;
using Skein.Training.ParameterServers;

namespace Skein.Cli;

/// <summary>
/// <c>skein train</c>: joins the job when a launcher started this process; else trains here when one worker is asked
/// for, and launches this same command as the job's workers when there are several.
/// </summary>
internal static class TrainCommand
{
    private static readonly TimeSpan Grace = TimeSpan.FromSeconds(3);

    public static Command Create()
    {
        var command = TrainSyntax.Create();
        command.SetAction((parsed, _) => RunAsync(TrainSyntax.Read(parsed)));
        return command;
    }

    private static Task<int> RunAsync(TrainOptions options)
    {
        if (LauncherEnvironment.HasRank()) return WorkAsync(options, LauncherEnvironment.Read().LocalWorldSize);

        // Before anything is started, so that what does not fit is one line and not one of each worker.
        TrainPlan plan = TrainPlan.Create(options, options.Workers);
        if (plan.Servers is { } servers)
        {
            if (!JoinsRunningJob(options)) return LaunchWithServersAsync(options, servers);
            if (options.Workers > 1) throw new UsageException($"--workers is {options.Workers}, but only one worker joins a running job at a time: start skein train once for each");
        }

        return options.Workers == 1 ? WorkAsync(options, 1) : LaunchAsync(options, launch => plan.Pushes ? Tolerant(launch, options.Restarts) : launch);
    }

    /// <summary>Workers that push outlive the loss of any but rank 0, which itself says who was lost and who is back.</summary>
    private static LaunchOptions Tolerant(LaunchOptions launch, int restarts) => launch with
    {
        SurvivesLossOf = static rank => rank != 0,
        Restarts = restarts,
        LossSurvived = CommandLine.Report,
    };

    private static bool JoinsRunningJob(TrainOptions options) =>
        (options.Coordinator ?? Environment.GetEnvironmentVariable(ParameterServerOptions.CoordinatorVariable)) is { Length: > 0 };

    private static async Task<int> LaunchWithServersAsync(TrainOptions options, JobSettings settings)
    {
        JobSecret? given = JobSecret.FromEnvironment();
        JobSecret secret = given ?? JobSecret.Generate(LauncherEnvironment.ReadEncryption());
        await using var coordinator = await Coordinator.StartAsync(new CoordinatorOptions
        {
            Secret = secret,
            Servers = settings.Servers,
            Replicas = options.Server.Replicas,
            Workers = settings.Workers,
            Elastic = settings.Elastic,
            Settings = settings.ToJson(),
            Logger = settings.Elastic || options.Server.Replicas > 1 ? new StandardErrorLogger(LogLevel.Warning) : null,
        });
        if (settings.Elastic && given is not null) Console.Error.WriteLine($"more workers join with the same SKEIN_JOB_SECRET and --coordinator {coordinator.Endpoint}");
        string[] self = ThisCommand.Read().Arguments[..ThisCommand.HostArguments];
        int processes = settings.Servers * options.Server.Replicas;
        return await LaunchAsync(options, launch => launch with
        {
            Secret = secret,
            Environment = new Dictionary<string, string> { [ParameterServerOptions.CoordinatorVariable] = coordinator.Endpoint.ToString() },
            Companions = [.. Enumerable.Range(0, processes).Select(server => new CompanionProcess($"server-{server}", [.. self, "parameter-server", "serve"]))],
            SurvivesLossOf = rank => settings.Elastic && rank != 0,
            ProcessEnded = coordinator.ReportEnded,
        });
    }

    private static async Task<int> WorkAsync(TrainOptions options, int localWorldSize)
    {
        WorkerEnvironment.Apply(localWorldSize);
        // Left to the collector: a second signal may meet the end.
        var cancellation = new CancellationTokenSource();
        int code = CommandLine.Interrupted;
        using var interrupt = PosixSignalRegistration.Create(PosixSignal.SIGINT, Stop);
        using var terminate = PosixSignalRegistration.Create(PosixSignal.SIGTERM, Stop);
        try
        {
            return await TrainWorker.RunAsync(options, cancellation.Token);
        }
        catch (Exception error) when (cancellation.IsCancellationRequested && error is SkeinException or OperationCanceledException)
        {
            // The others were interrupted as well: that they are gone is no news.
            return code;
        }

        void Stop(PosixSignalContext context)
        {
            context.Cancel = true;
            // A launcher tells by it which signal ended one of its ranks.
            if (context.Signal == PosixSignal.SIGTERM && LauncherEnvironment.HasRank()) code = CommandLine.Terminated;
            cancellation.Cancel();
            // A step that waits for a peer does not see the cancellation.
            _ = Task.Delay(Grace).ContinueWith(_ => Environment.Exit(code), TaskScheduler.Default);
        }
    }

    private static async Task<int> LaunchAsync(TrainOptions options, Func<LaunchOptions, LaunchOptions> configure)
    {
        var (program, arguments) = ThisCommand.Read();
        var directory = options.RunDirectory ?? RunDirectory.NewPath(options.Workload);
        var outcome = await Launcher.RunAsync(configure(new LaunchOptions
        {
            Program = program,
            Arguments = arguments,
            ProcessesPerNode = options.Workers,
            RunDirectory = directory,
            Output = LaunchOutput.RankZero,
            Logger = new StandardErrorLogger(LogLevel.Warning),
        }));
        if (outcome.ExitCode == 0 || outcome.IsInterrupted) return outcome.ExitCode;
        Report(outcome, directory, options.Strategy == TrainPlan.ParameterServer);
        return outcome.ExitCode == CommandLine.BadUsage ? CommandLine.BadUsage : CommandLine.Failed;
    }

    private static void Report(LaunchOutcome outcome, string directory, bool hasServers)
    {
        if (outcome.FailedRank is not { } failed)
        {
            CommandLine.Report(outcome.Failure!);
            return;
        }

        // Rank 0's words have been passed on as they came. They may name the worker that said the same; with parameter
        // servers they name who died, and what to do.
        var said = LastError(outcome.LastLines[failed]);
        var passedOn = LastError(outcome.LastLines[0]);
        if (passedOn is not null && (said is null ? hasServers : passedOn.Contains(said, StringComparison.Ordinal))) return;
        var reason = said is null ? "" : $": {said}";
        CommandLine.Report($"{outcome.Failure}{reason}; its output is in {Path.Combine(directory, $"rank-{failed}.log")}");
    }

    private static string? LastError(IReadOnlyList<string> lines) =>
        lines.LastOrDefault(line => line.StartsWith(CommandLine.Prefix, StringComparison.Ordinal))?[CommandLine.Prefix.Length..];
}

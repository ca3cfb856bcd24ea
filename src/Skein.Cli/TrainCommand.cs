using System.CommandLine;
using Microsoft.Extensions.Logging;
using Skein.Cli.LibTorch;
using Skein.Cli.Train;
using Skein.Collectives;
using Skein.Collectives.Rendezvous;
using Skein.Hosting;
using Skein.Hosting.ParameterServers;
using Skein.ParameterServer;
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

    private static async Task<int> RunAsync(TrainOptions options)
    {
        if (LauncherEnvironment.HasRank())
        {
            if (options.WorkersWritten) CommandLine.CheckWorld("--workers", options.Workers, LauncherEnvironment.Read());
            return await WorkAsync(options);
        }

        // Before anything is started, so that what does not fit is one line and not one of each worker.
        TrainPlan plan = TrainPlan.Create(options, options.Workers);
        bool joins = plan.Servers is not null && JoinsRunningJob(options);
        if (joins && options.Workers > 1)
        {
            throw new UsageException(
                $"--workers is {options.Workers}, but only one worker joins a running job at a time: start skein train once for each");
        }

        await LibTorchFetch.EnsureLoadedAsync();
        if (joins || (plan.Servers is null && options.Workers == 1)) return await WorkAsync(options);

        // Before there are workers: of those only one would be heard.
        using (var interruption = new Interruption()) await ExternalFiles.FetchAsync(plan.Workload, interruption.Token);
        return plan.Servers is { } servers
            ? await LaunchWithServersAsync(options, servers)
            : await LaunchAsync(options, launch => plan.Pushes ? Tolerant(launch, options.Restarts) : launch);
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

    private static Task<int> LaunchWithServersAsync(TrainOptions options, JobSettings settings)
    {
        JobSecret? given = JobSecret.FromEnvironment();
        ServerLaunch servers = ParameterServerSyntax.ToLaunch(options.Server, settings, coordinator =>
        {
            if (!settings.Elastic || given is null) return;
            Console.Error.WriteLine($"more workers join with the same SKEIN_JOB_SECRET and --coordinator {coordinator}");
        });
        return LaunchAsync(options, launch => launch with
        {
            Secret = given,
            Servers = servers,
            SurvivesLossOf = rank => settings.Elastic && rank != 0,
        });
    }

    private static async Task<int> WorkAsync(TrainOptions options)
    {
        // A step that waits for a peer does not see the cancellation.
        using var interruption = new Interruption(Grace);
        try
        {
            return await TrainWorker.RunAsync(options, interruption.Token);
        }
        catch (Exception error) when (interruption.Token.IsCancellationRequested && error is SkeinException or OperationCanceledException)
        {
            // The others were interrupted as well: that they are gone is no news.
            return interruption.ExitCode;
        }
        catch (OperationCanceledException) when (LauncherEnvironment.HasRank())
        {
            // Another rank was told to stop, and all did. It ends first, so that the launcher names it, and ends this one.
            await Task.Delay(Grace);
            return CommandLine.Interrupted;
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

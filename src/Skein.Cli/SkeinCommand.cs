using System.CommandLine;
using Skein.Cli.Bench;
using Skein.Cli.Doctor;

namespace Skein.Cli;

/// <summary>The command <c>skein</c> with all that it can do.</summary>
internal static class SkeinCommand
{
    public static RootCommand Create() => new("Trains one model on many machines.")
    {
        TrainCommand.Create(),
        GenerateCommand.Create(),
        LaunchCommand.Create(),
        ParameterServerCommand.Create(),
        BenchCommand.Create(),
        PlanCommand.Create(),
        DoctorCommand.Create(),
        CommonOptions.Json,
        CommonOptions.Verbose,
        CommonOptions.Seed,
        CommonOptions.RunDirectory,
    };
}

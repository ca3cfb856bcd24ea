using System.CommandLine;
using Skein.Cli;
using Skein.Cli.Bench;
using Skein.Cli.Doctor;

var root = new RootCommand("Trains one model on many machines.")
{
    TrainCommand.Create(),
    LaunchCommand.Create(),
    BenchCommand.Create(),
    DoctorCommand.Create(),
    CommonOptions.Json,
    CommonOptions.Verbose,
    CommonOptions.Seed,
    CommonOptions.RunDirectory,
};
return await CommandLine.RunAsync(root, args);

using System.CommandLine;

namespace Skein.Cli;

internal static class TrainCommand
{
    public static Command Create() => new("train", "Trains a built-in workload");
}

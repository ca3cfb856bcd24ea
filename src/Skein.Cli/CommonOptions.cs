using System.CommandLine;

namespace Skein.Cli;

/// <summary>The options that every command understands.</summary>
internal static class CommonOptions
{
    public static Option<bool> Json { get; } = new("--json")
    {
        Description = "Make the last line on stdout one JSON object; progress goes to stderr",
        Recursive = true,
    };

    public static Option<bool> Verbose { get; } = new("--verbose")
    {
        Description = "Say more, and show the stack trace of an error",
        Recursive = true,
    };

    public static Option<long> Seed { get; } = new("--seed")
    {
        Description = "What all randomness follows from, 0 or more [default: 0]",
        HelpName = "N",
        Recursive = true,
    };

    public static Option<string?> RunDirectory { get; } = new("--run-dir")
    {
        Description = "Where results and logs are written [default: runs/<workload>-<time>]",
        HelpName = "DIR",
        Recursive = true,
    };
}

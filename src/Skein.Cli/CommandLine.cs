using System.CommandLine;
using System.CommandLine.Invocation;
using Skein.Hosting;

namespace Skein.Cli;

/// <summary>The command was given something that it cannot work with: exit code 2.</summary>
internal sealed class UsageException(string message) : Exception(message);

/// <summary>Runs a command and turns whatever goes wrong into one line on stderr and an exit code.</summary>
internal static class CommandLine
{
    public const int Failed = 1;
    public const int BadUsage = 2;
    public const int Interrupted = 130;

    public static async Task<int> RunAsync(RootCommand root, string[] args)
    {
        // A program's own arguments may begin with '@', which else would name a file of arguments.
        var parsed = root.Parse(args, new ParserConfiguration { ResponseFileTokenReplacer = null });
        if (parsed.Action is ParseErrorAction)
        {
            Report(parsed.Errors[0].Message.TrimEnd('.') + "; see skein --help");
            return BadUsage;
        }

        try
        {
            return await parsed.InvokeAsync(
                new InvocationConfiguration { EnableDefaultExceptionHandler = false, ProcessTerminationTimeout = null });
        }
        catch (OperationCanceledException)
        {
            return Interrupted;
        }
        catch (Exception error)
        {
            Report(error.Message);
            if (parsed.GetValue(CommonOptions.Verbose)) Console.Error.WriteLine(error);
            return error is UsageException ? BadUsage : Failed;
        }
    }

    /// <summary>Writes the one line of an error.</summary>
    public static void Report(string message) =>
        Console.Error.WriteLine($"skein: {string.Join(' ', message.Split((char[])['\r', '\n', '\t'], StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries))}");

    /// <summary>Reports how a launched job failed, with what its first failing rank said last.</summary>
    public static void Report(LaunchOutcome outcome)
    {
        if (outcome.Failure is null) return;
        Report(outcome.LastLines.Count == 0 ? outcome.Failure : $"{outcome.Failure}; its last lines:");
        foreach (var line in outcome.LastLines) Console.Error.WriteLine($"[{outcome.FailedRank}] {line}");
    }
}

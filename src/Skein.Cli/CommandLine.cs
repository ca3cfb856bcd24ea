using System.CommandLine;
using System.CommandLine.Invocation;
using Skein.Collectives;
using Skein.Collectives.Rendezvous;

namespace Skein.Cli;

/// <summary>The command was given something that it cannot work with: exit code 2.</summary>
internal sealed class UsageException(string message) : Exception(message);

/// <summary>Runs a command and turns whatever goes wrong into one line on stderr and an exit code.</summary>
internal static class CommandLine
{
    /// <summary>What the line of an error begins with.</summary>
    public const string Prefix = "skein: ";

    public const int Failed = 1;
    public const int BadUsage = 2;
    public const int Interrupted = 130;
    public const int Terminated = 143;

    public static async Task<int> RunAsync(RootCommand root, string[] args)
    {
        // mpirun gives rank 0 a terminal for stdout, whatever its own is; to a capable one the runtime sends the codes of
        // its keypad mode, which would stand before the JSON.
        if (LauncherEnvironment.HasRank()) Environment.SetEnvironmentVariable("TERM", "dumb");

        Numbers.ReadBy(root);

        // A program's own arguments may begin with '@', which else would name a file of arguments.
        var parsed = root.Parse(args, new ParserConfiguration { ResponseFileTokenReplacer = null });
        if (parsed.Action is ParseErrorAction)
        {
            Report($"{Describe(parsed)}; see skein --help");
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
            Report(Describe(error));
            if (parsed.GetValue(CommonOptions.Verbose)) Console.Error.WriteLine(error);
            return error is UsageException ? BadUsage : Failed;
        }
    }

    /// <summary>The value of an option that counts something.</summary>
    /// <exception cref="UsageException">It is below 1.</exception>
    public static int AtLeastOne(ParseResult parsed, Option<int> option)
    {
        var value = parsed.GetValue(option);
        return value >= 1 ? value : throw new UsageException($"{option.Name} is {value}: give a whole number from 1");
    }

    /// <summary>The value of an option that counts something of which there may be nothing.</summary>
    /// <exception cref="UsageException">It is below 0.</exception>
    public static int NotNegative(ParseResult parsed, Option<int> option)
    {
        var value = parsed.GetValue(option);
        return value >= 0 ? value : throw new UsageException($"{option.Name} is {value}: give a whole number from 0");
    }

    /// <summary>Checks how many processes were asked for where others have started them, as srun and mpirun do.</summary>
    /// <exception cref="UsageException">The job has another number.</exception>
    public static void CheckWorld(string option, int asked, ProcessGroupOptions place)
    {
        if (asked == place.WorldSize) return;
        throw new UsageException(
            $"{option} is {asked}, but this process was started as rank {place.Rank} of a job of {place.WorldSize}: "
            + $"leave {option} out, or start {asked} ranks");
    }

    // .NET appends the name of the parameter, which says nothing to who typed a command.
    public static string Describe(Exception error) =>
        error is ArgumentException { ParamName: { } name } ? error.Message.Replace($" (Parameter '{name}')", "", StringComparison.Ordinal) : error.Message;

    private static string Describe(ParseResult parsed)
    {
        if (parsed.UnmatchedTokens is [var unknown, ..]) return $"unknown command or option '{unknown}'";
        var message = parsed.Errors[0].Message.TrimEnd('.');
        var type = message.IndexOf(" as expected type", StringComparison.Ordinal);
        return type < 0 ? message : message[..type];
    }

    /// <summary>Writes the one line of an error.</summary>
    public static void Report(string message)
    {
        var lines = message.Split('\n', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);
        Console.Error.WriteLine($"{Prefix}{string.Join(' ', lines)}");
    }
}

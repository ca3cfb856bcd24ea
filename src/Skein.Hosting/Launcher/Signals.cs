namespace Skein.Hosting;

/// <summary>POSIX signals by number, as exit codes carry them.</summary>
internal static class Signals
{
    public const int HangUp = 1;
    public const int Interrupt = 2;
    public const int Quit = 3;
    public const int Kill = 9;
    public const int Terminate = 15;

    private static readonly Dictionary<int, string> Names = new()
    {
        [1] = "SIGHUP",
        [2] = "SIGINT",
        [3] = "SIGQUIT",
        [4] = "SIGILL",
        [6] = "SIGABRT",
        [7] = "SIGBUS",
        [8] = "SIGFPE",
        [9] = "SIGKILL",
        [11] = "SIGSEGV",
        [13] = "SIGPIPE",
        [15] = "SIGTERM",
    };

    /// <summary>Whether a signal is in one of a process's masks; false where there is no such process, or no <c>/proc</c>.</summary>
    /// <param name="process">Its number, or <c>self</c>.</param>
    /// <param name="mask"><c>SigIgn</c> for those it ignores, <c>SigCgt</c> for those it handles.</param>
    /// <param name="signal">The signal's number.</param>
    public static bool Has(string process, string mask, int signal)
    {
        try
        {
            var line = File.ReadLines($"/proc/{process}/status").FirstOrDefault(line => line.StartsWith($"{mask}:", StringComparison.Ordinal));
            return line is not null && ((Convert.ToUInt64(line[(mask.Length + 1)..].Trim(), 16) >> (signal - 1)) & 1) != 0;
        }
        catch (IOException)
        {
            return false;
        }
    }

    /// <summary>How a process ended, to follow its name in a sentence.</summary>
    public static string Describe(int exitCode)
    {
        var signal = exitCode - 128;
        if (signal is <= 0 or > 64) return $"exited with code {exitCode}";
        var name = Names.TryGetValue(signal, out var known) ? $" ({known})" : "";
        return $"was ended by signal {signal}{name}";
    }
}

using System.Diagnostics;

namespace Skein.Benchmarks;

/// <summary>Programs that benchmarks run, with an allocator that keeps freed memory.</summary>
internal static class ChildProcess
{
    private static readonly (string Name, string Value)[] KeepFreedMemory = [("MALLOC_MMAP_MAX_", "0"), ("MALLOC_TRIM_THRESHOLD_", "4294967296")];

    /// <summary>Runs a program to its end, and gives what it wrote to stdout.</summary>
    /// <exception cref="InvalidOperationException">It failed.</exception>
    public static async Task<string> OutputAsync(string program, IEnumerable<string> arguments, CancellationToken cancellationToken)
    {
        string[] all = [.. arguments];
        using Process process = Start(program, all, redirect: true);
        try
        {
            string output = await process.StandardOutput.ReadToEndAsync(cancellationToken);
            await process.WaitForExitAsync(cancellationToken);
            return process.ExitCode == 0 ? output : throw new InvalidOperationException($"{program} {string.Join(' ', all)} failed with exit code {process.ExitCode}");
        }
        finally
        {
            if (!process.HasExited) process.Kill(entireProcessTree: true);
        }
    }

    /// <summary>Starts a program that the caller ends and disposes of.</summary>
    public static Process Start(string program, string[] arguments, bool redirect = false, params ReadOnlySpan<(string Name, string Value)> environment)
    {
        var start = new ProcessStartInfo(program, arguments) { RedirectStandardOutput = redirect };
        foreach ((string name, string value) in KeepFreedMemory) start.Environment[name] = value;
        foreach ((string name, string value) in environment) start.Environment[name] = value;
        return Process.Start(start)!;
    }

    /// <summary>Starts this same program with other arguments.</summary>
    public static Process StartSelf(params string[] arguments)
    {
        string program = Environment.ProcessPath!;
        return Path.GetFileNameWithoutExtension(program) == "dotnet" ? Start(program, [typeof(ChildProcess).Assembly.Location, .. arguments]) : Start(program, arguments);
    }
}

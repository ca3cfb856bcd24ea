namespace Skein.Hosting;

/// <summary>Finds the program to launch before any process is started, so that a misspelt one is one clear error.</summary>
internal static class ProgramPath
{
    // What a shell searches where nothing is set.
    private const string DefaultPath = "/usr/local/bin:/usr/bin:/bin";

    private const UnixFileMode AnyExecute = UnixFileMode.UserExecute | UnixFileMode.GroupExecute | UnixFileMode.OtherExecute;

    /// <exception cref="LaunchException">There is no such program, or it is not executable.</exception>
    public static string Find(string program)
    {
        if (program.Contains('/', StringComparison.Ordinal))
        {
            if (!File.Exists(program)) throw new LaunchException($"no such program: {program}");
            if (!IsExecutable(program)) throw new LaunchException($"{program} is not executable; allow it with: chmod +x {program}");
            return Path.GetFullPath(program);
        }

        var path = Environment.GetEnvironmentVariable("PATH") is { Length: > 0 } set ? set : DefaultPath;
        var folders = path.Split(':', StringSplitOptions.RemoveEmptyEntries);
        return folders.Select(folder => Path.Combine(folder, program)).FirstOrDefault(path => File.Exists(path) && IsExecutable(path))
            ?? throw new LaunchException($"no program '{program}' on PATH; give its path, as in ./{program}");
    }

    private static bool IsExecutable(string path) =>
        OperatingSystem.IsWindows() || (File.GetUnixFileMode(path) & AnyExecute) != 0;
}

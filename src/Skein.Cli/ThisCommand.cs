namespace Skein.Cli;

/// <summary>How this process was started: as a program of its own when installed, through dotnet in a checkout.</summary>
internal static class ThisCommand
{
    /// <summary>How many arguments come before the command's own: the assembly, where dotnet runs it.</summary>
    public static int HostArguments => Path.GetFileNameWithoutExtension(Environment.ProcessPath) == "dotnet" ? 1 : 0;

    /// <summary>The program, and the arguments that start this same command in another process.</summary>
    public static (string Program, string[] Arguments) Read()
    {
        var program = Environment.ProcessPath ?? throw new InvalidOperationException("the path of this program is not known");
        var arguments = Environment.GetCommandLineArgs();
        return (program, HostArguments == 1 ? arguments : arguments[1..]);
    }
}

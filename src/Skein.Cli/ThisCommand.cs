namespace Skein.Cli;

/// <summary>How this process was started: as a program of its own when installed, through dotnet in a checkout.</summary>
internal static class ThisCommand
{
    /// <summary>The program, and the arguments that start this same command in another process.</summary>
    public static (string Program, string[] Arguments) Read()
    {
        var program = Environment.ProcessPath ?? throw new InvalidOperationException("the path of this program is not known");
        var arguments = Environment.GetCommandLineArgs();
        var hosted = Path.GetFileNameWithoutExtension(program) == "dotnet";
        return (program, hosted ? arguments : arguments[1..]);
    }
}

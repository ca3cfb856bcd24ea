using Skein.Training.LibTorch;

/// <summary>
/// Loads LibTorch before a program's first line, whatever its language and its <c>Main</c>: it may use TorchSharp before anything of Skein.
/// The runtime finds the class by its name, since <c>runtimeconfig.json</c> lists this assembly (buildTransitive/Skein.Training.targets).
/// </summary>
internal static class StartupHook
{
    public static void Initialize()
    {
        if (NativeLibTorch.Status.Problem is not { } problem) return;

        // An exception here would end in the runtime's own lines and a core dump.
        Console.Error.WriteLine($"skein: {problem}");
        Environment.Exit(1);
    }
}

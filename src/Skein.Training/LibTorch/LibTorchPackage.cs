using System.Runtime.InteropServices;

namespace Skein.Training.LibTorch;

/// <summary>The NuGet package that holds LibTorch for this machine, in the version that TorchSharp was built for.</summary>
public static class LibTorchPackage
{
    /// <summary>The version, without which TorchSharp does not work.</summary>
    public const string Version = "2.10.0";

    /// <summary>The package's name, such as <c>libtorch-cpu-linux-x64</c>; null where there is none for this system and processor.</summary>
    public static string? Name { get; } = FindName();

    /// <summary>The command that adds the package to a project.</summary>
    public static string Remedy => Name is { } name
        ? $"dotnet add package {name} --version {Version}"
        : $"there is no LibTorch for {RuntimeInformation.RuntimeIdentifier}: use x64 Linux or Windows, or an ARM Mac";

    /// <summary>
    /// The folder of the user's package cache, <c>NUGET_PACKAGES</c> or else <c>~/.nuget/packages</c>; null where the user has no home.
    /// </summary>
    public static string? Cache
    {
        get
        {
            if (Environment.GetEnvironmentVariable("NUGET_PACKAGES") is { Length: > 0 } given) return given;
            string home = Environment.GetFolderPath(Environment.SpecialFolder.UserProfile);
            return home.Length == 0 ? null : Path.Combine(home, ".nuget", "packages");
        }
    }

    /// <summary>The folder that the package can be brought to: <see cref="Cache"/>, else one in Skein's own cache.</summary>
    /// <exception cref="IOException">There is no folder to write to.</exception>
    public static string WritableCache => Cache is { } cache && UserCache.CanWrite(cache) ? cache : UserCache.PathOf("packages");

    /// <summary>The folder of LibTorch's libraries in a package cache; null unless the package is there whole.</summary>
    /// <param name="cache">The cache's folder.</param>
    public static string? FindIn(string? cache)
    {
        if (cache is null || Name is not { } name) return null;
        string package = Path.Combine(cache, name, Version);
        // The last file that NuGet writes.
        if (!File.Exists(Path.Combine(package, ".nupkg.metadata"))) return null;
        string folder = Path.Combine(package, "runtimes", name["libtorch-cpu-".Length..], "native");
        return Directory.Exists(folder) ? folder : null;
    }

    private static string? FindName() => RuntimeInformation.ProcessArchitecture switch
    {
        Architecture.X64 when OperatingSystem.IsLinux() => "libtorch-cpu-linux-x64",
        Architecture.X64 when OperatingSystem.IsWindows() => "libtorch-cpu-win-x64",
        Architecture.Arm64 when OperatingSystem.IsWindows() => "libtorch-cpu-win-arm64",
        Architecture.Arm64 when OperatingSystem.IsMacOS() => "libtorch-cpu-osx-arm64",
        _ => null,
    };
}

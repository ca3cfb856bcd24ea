using System.Diagnostics;
using System.Text.Json;
using Skein.Training.LibTorch;

namespace Skein.Cli.Doctor;

/// <summary>The user's own project, where the command is called in its folder.</summary>
internal static class ProjectChecks
{
    private const string Name = "project";
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(60);

    /// <summary>Finds out whether the project here has the LibTorch that its Skein needs; null where there is no project with Skein.</summary>
    public static Finding? LibTorch()
    {
        string[] projects = [.. Directory.EnumerateFiles(".", "*.*proj").Where(static path => Path.GetExtension(path) is ".csproj" or ".fsproj" or ".vbproj")];
        if (projects is not [var project]) return null;
        string name = Path.GetFileName(project);
        if (AssetsFile(project) is not { } assets) return null;
        if (!File.Exists(assets)) return Finding.Absent(Name, $"{name} is not restored", "dotnet restore");
        return Judge(name, Packages(assets));
    }

    private static Finding? Judge(string project, Dictionary<string, string> packages)
    {
        if (!packages.ContainsKey("Skein.Training")) return null;
        (string Id, string Version)[] found = [.. packages.Where(static package => package.Key.StartsWith("libtorch-", StringComparison.OrdinalIgnoreCase)).Select(static package => (package.Key, package.Value))];
        if (found.Length == 0) return Finding.Failed(Name, $"{project} has no LibTorch", LibTorchPackage.Remedy);
        foreach ((string id, string version) in found)
        {
            if (version != LibTorchPackage.Version) return Finding.Failed(Name, $"{project} references {id} {version}, but TorchSharp was built for {LibTorchPackage.Version}", $"dotnet add package {id} --version {LibTorchPackage.Version}");
        }

        return Finding.Ok(Name, $"{project} has {string.Join(", ", found.Select(static package => $"{package.Id} {package.Version}"))}");
    }

    private static Dictionary<string, string> Packages(string assets)
    {
        using JsonDocument document = JsonDocument.Parse(File.ReadAllBytes(assets));
        return document.RootElement.GetProperty("libraries").EnumerateObject()
            .Select(static library => library.Name.Split('/'))
            .ToDictionary(static parts => parts[0], static parts => parts[1], StringComparer.OrdinalIgnoreCase);
    }

    /// <summary>Where restoring writes what it has found; null where the project cannot be read.</summary>
    private static string? AssetsFile(string project)
    {
        var start = new ProcessStartInfo("dotnet", ["msbuild", project, "-getProperty:ProjectAssetsFile", "-nologo", "-nodeReuse:false"])
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        try
        {
            using Process process = Process.Start(start)!;
            Task<string> output = process.StandardOutput.ReadToEndAsync();
            Task<string> errors = process.StandardError.ReadToEndAsync();
            if (!process.WaitForExit(Limit)) process.Kill(entireProcessTree: true);
            return Task.WaitAll([output, errors], Limit) && process.ExitCode == 0 && output.Result.Trim() is { Length: > 0 } path ? path : null;
        }
        catch (System.ComponentModel.Win32Exception)
        {
            return null;
        }
    }
}

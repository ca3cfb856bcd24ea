using System.IO.Compression;
using System.Xml.Linq;
using Skein.TestKit;

namespace Skein.EndToEnd.Packages;

/// <summary>The packages of this checkout, and folders of users who have nothing else of it. Made once for all tests.</summary>
[CollectionDefinition(nameof(PackageFeed))]
public sealed class PackageFeed : IAsyncLifetime, ICollectionFixture<PackageFeed>
{
    // Other than any published one, so that none of those is taken for it.
    public const string Version = "0.1.0-tested";

    private static readonly string Cache =
        Environment.GetEnvironmentVariable("NUGET_PACKAGES") ?? Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), ".nuget", "packages");

    private readonly string root = Directory.CreateTempSubdirectory("skein-packages-").FullName;

    /// <summary>Where the packages are.</summary>
    public string Folder => Path.Combine(root, "feed");

    public async ValueTask InitializeAsync()
    {
        // The tests' own build is packed; it has the version in its files' names only.
        await DotnetAsync(Repository.Root, [], "pack", "-c", "Release", "--no-build", "-v", "q", "-o", Folder, $"-p:PackageVersion={Version}");
        await File.WriteAllTextAsync(Path.Combine(root, "nuget.config"), $"""
            <configuration><packageSources><add key="tested" value="{Folder}" /></packageSources></configuration>
            """);
        // Skein's packages are unpacked for these tests alone; those of others are taken from where they are.
        await File.WriteAllTextAsync(Path.Combine(root, "Directory.Build.props"), $"""
            <Project>
              <PropertyGroup>
                <TargetFramework>net10.0</TargetFramework>
                <OutputType>Exe</OutputType>
                <ImplicitUsings>enable</ImplicitUsings>
                <RestorePackagesPath>{Path.Combine(root, "packages")}</RestorePackagesPath>
                <RestoreFallbackFolders>{Cache}</RestoreFallbackFolders>
              </PropertyGroup>
            </Project>
            """);
    }

    public ValueTask DisposeAsync()
    {
        Directory.Delete(root, recursive: true);
        return ValueTask.CompletedTask;
    }

    /// <summary>The package's description.</summary>
    public static XElement Metadata(string path)
    {
        using var package = ZipFile.OpenRead(path);
        using var nuspec = package.Entries.Single(entry => entry.FullName.EndsWith(".nuspec", StringComparison.Ordinal)).Open();
        return XDocument.Load(nuspec).Root!.Elements().Single();
    }

    /// <summary>A folder with a program that references packages.</summary>
    public async Task<string> WriteProgramAsync(string name, string source, params (string Id, string Version)[] packages)
    {
        string folder = Directory.CreateDirectory(Path.Combine(root, name)).FullName;
        bool isFSharp = source.Contains("[<EntryPoint>]", StringComparison.Ordinal);
        string language = isFSharp ? "fs" : "cs";
        await File.WriteAllTextAsync(Path.Combine(folder, $"Program.{language}"), source);
        await File.WriteAllTextAsync(Path.Combine(folder, $"{name}.{language}proj"), $"""
            <Project Sdk="Microsoft.NET.Sdk">
              <ItemGroup>
                {(isFSharp ? "<Compile Include=\"Program.fs\" />" : "")}
                {string.Concat(packages.Select(package => $"<PackageReference Include=\"{package.Id}\" Version=\"{package.Version}\" />"))}
              </ItemGroup>
            </Project>
            """);
        return folder;
    }

    /// <summary>Builds a sample of the checkout with packages in place of their sources.</summary>
    /// <returns>The program.</returns>
    public async Task<string> BuildSampleAsync(string name)
    {
        string artifacts = MakeFolder($"{name}-artifacts");
        await DotnetAsync(
            Repository.PathOf($"samples/{name}"), [], "build", "-c", "Release", "-v", "q", $"-p:SkeinVersion={Version}", $"-p:ArtifactsPath={artifacts}",
            $"-p:RestoreAdditionalProjectSources={Folder}", $"-p:RestorePackagesPath={Path.Combine(root, "packages")}", $"-p:RestoreFallbackFolders={Cache}");
        return Directory.GetFiles(artifacts, $"{name}.dll", SearchOption.AllDirectories).Single(path => path.Contains("/bin/", StringComparison.Ordinal) && !path.Contains("/ref", StringComparison.Ordinal));
    }

    /// <summary>An empty folder that knows of the packages.</summary>
    public string MakeFolder(string name) => Directory.CreateDirectory(Path.Combine(root, name)).FullName;

    /// <summary>A source of packages with LibTorch's as it was downloaded, so that bringing it needs no network.</summary>
    public async Task OfferLibTorchAsync()
    {
        string name = "libtorch-cpu-linux-x64", file = $"{name}.2.10.0.nupkg";
        await using var from = File.OpenRead(Path.Combine(Cache, name, "2.10.0", file));
        await using var to = File.Create(Path.Combine(Folder, file));
        await from.CopyToAsync(to);
    }

    /// <summary>A package like LibTorch's in that version, without its content.</summary>
    public void OfferOtherLibTorch(string version)
    {
        const string name = "libtorch-cpu-linux-x64";
        using ZipArchive package = ZipFile.Open(Path.Combine(Folder, $"{name}.{version}.nupkg"), ZipArchiveMode.Create);
        using (var nuspec = new StreamWriter(package.CreateEntry($"{name}.nuspec").Open()))
        {
            nuspec.Write($"<package><metadata><id>{name}</id><version>{version}</version><authors>tests</authors><description>tests</description></metadata></package>");
        }

        using Stream library = package.CreateEntry("runtimes/linux-x64/native/libtorch_cpu.so").Open();
        library.WriteByte(0);
    }

    /// <summary>The output of a successful dotnet command.</summary>
    public static async Task<string[]> DotnetAsync(string folder, (string Name, string? Value)[] environment, params string[] arguments)
    {
        (int code, string[] output, string[] errors) = await RunAsync("dotnet", folder, environment, arguments);
        Assert.True(code == 0, $"dotnet {string.Join(' ', arguments)}: {code}\n{string.Join('\n', output.Concat(errors))}");
        return output;
    }

    public static async Task<(int ExitCode, string[] Output, string[] Errors)> RunAsync(
        string program, string folder, (string Name, string? Value)[] environment, params string[] arguments)
    {
        await using var process = SkeinProcess.StartIn(folder, program, [.. Clean, .. environment], arguments);
        return (await process.ExitAsync(TimeSpan.FromMinutes(5)), process.Output, process.Errors);
    }

    // What dotnet test tells its own processes is not meant for another build.
    private static IEnumerable<(string Name, string? Value)> Clean => Environment.GetEnvironmentVariables().Keys.Cast<string>()
        .Where(name => name.StartsWith("MSBuild", StringComparison.OrdinalIgnoreCase) && name != "MSBUILDDISABLENODEREUSE")
        .Select(name => (name, (string?)null));
}

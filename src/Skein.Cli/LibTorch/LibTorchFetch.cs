using System.Diagnostics;
using Skein.Training.LibTorch;
using Skein.Workloads;

namespace Skein.Cli.LibTorch;

/// <summary>
/// Brings LibTorch's package into the user's package cache on first need. NuGet itself does it, so that sources, proxies and credentials are
/// those of the user.
/// </summary>
internal static class LibTorchFetch
{
    // The package and what it unpacks to, in bytes; only for the progress.
    private const long DownloadBytes = 128_000_000;
    private const long UnpackedBytes = 626_000_000;

    private static readonly TimeSpan Poll = TimeSpan.FromMilliseconds(250);
    private static readonly TimeSpan Patience = TimeSpan.FromMinutes(3);

    /// <summary>Loads LibTorch, and brings it before where it is missing.</summary>
    /// <exception cref="DllNotFoundException">It cannot be loaded; the message says why and what to do.</exception>
    /// <exception cref="InvalidOperationException">It could not be brought; the message says why and what to do.</exception>
    public static async Task EnsureLoadedAsync()
    {
        bool isMissing = NativeLibTorch.Status is { Problem: not null, Directory: null };
        if (isMissing && LibTorchPackage.Name is { } name) await BringAsync(name);
        NativeLibTorch.Load();
    }

    private static async Task BringAsync(string name)
    {
        using var interruption = new Interruption();
        try
        {
            string cache = Directory.CreateDirectory(LibTorchPackage.WritableCache).FullName;
            using FileStream turn = await TakeTurnAsync(Path.Combine(cache, ".skein-libtorch.lock"), interruption.Token);
            if (LibTorchPackage.FindIn(cache) is null) await RestoreAsync(name, cache, interruption.Token);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            throw Failure(error.Message);
        }
    }

    private static async Task RestoreAsync(string name, string cache, CancellationToken cancellationToken)
    {
        string work = Directory.CreateTempSubdirectory("skein-libtorch-").FullName;
        try
        {
            await File.WriteAllTextAsync(Path.Combine(work, "libtorch.csproj"), $"""
                <Project Sdk="Microsoft.NET.Sdk">
                  <PropertyGroup><TargetFramework>net10.0</TargetFramework></PropertyGroup>
                  <ItemGroup><PackageDownload Include="{name}" Version="[{LibTorchPackage.Version}]" /></ItemGroup>
                </Project>
                """, cancellationToken);
            using Process restore = Start(work, cache);
            Task<string> said = ReadAsync(restore);
            using var lines = new FetchLines();
            var since = Stopwatch.StartNew();
            long last = -1;
            while (!restore.HasExited)
            {
                // Counted as it lies on the disk: NuGet says nothing while it works.
                long downloaded = SizeOf(Path.Combine(work, "http")), unpacked = SizeOf(Path.Combine(cache, name));
                lines.Report(unpacked == 0
                    ? new FetchProgress("LibTorch, once", Math.Min(downloaded, DownloadBytes - 1), DownloadBytes)
                    : new FetchProgress("LibTorch, unpacked", Math.Min(unpacked, UnpackedBytes - 1), UnpackedBytes));
                if (downloaded + unpacked != last) since.Restart();
                last = downloaded + unpacked;
                if (cancellationToken.IsCancellationRequested || since.Elapsed > Patience) restore.Kill(entireProcessTree: true);
                await Task.WhenAny(restore.WaitForExitAsync(CancellationToken.None), Task.Delay(Poll, CancellationToken.None));
            }

            cancellationToken.ThrowIfCancellationRequested();
            if (since.Elapsed > Patience) throw Failure($"nothing came for {Patience.TotalMinutes:0} minutes");
            if (restore.ExitCode != 0) throw Failure(FirstError(await said));
        }
        finally
        {
            Directory.Delete(work, recursive: true);
        }
    }

    private static Process Start(string work, string cache)
    {
        var start = new ProcessStartInfo("dotnet")
        {
            ArgumentList =
            {
                "restore", Path.Combine(work, "libtorch.csproj"), "--packages", cache, "-v", "minimal", "-nodeReuse:false",
                // Else NuGet looks for the user's nuget.config above the temporary folder.
                $"-p:RestoreRootConfigDirectory={Directory.GetCurrentDirectory()}",
            },
            Environment =
            {
                ["NUGET_HTTP_CACHE_PATH"] = Path.Combine(work, "http"),
                ["NUGET_SCRATCH"] = Path.Combine(work, "scratch"),
                ["DOTNET_CLI_HOME"] = work,
                ["DOTNET_CLI_TELEMETRY_OPTOUT"] = "1",
                ["DOTNET_CLI_UI_LANGUAGE"] = "en",
                ["DOTNET_NOLOGO"] = "1",
                ["DOTNET_SKIP_FIRST_TIME_EXPERIENCE"] = "1",
            },
            WorkingDirectory = work,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        try
        {
            return Process.Start(start)!;
        }
        catch (System.ComponentModel.Win32Exception)
        {
            throw Failure("the dotnet command of the .NET SDK is not on PATH");
        }
    }

    private static async Task<string> ReadAsync(Process process)
    {
        string[] streams = await Task.WhenAll(process.StandardOutput.ReadToEndAsync(), process.StandardError.ReadToEndAsync());
        return string.Concat(streams);
    }

    // As in: /tmp/…/libtorch.csproj : error NU1301: Unable to load the service index for source … [/tmp/…/libtorch.csproj]
    private static string FirstError(string output)
    {
        string line = output.Split('\n').FirstOrDefault(static line => line.Contains("error ", StringComparison.Ordinal))?.Trim() ?? "restore failed without a word";
        int code = line.IndexOf("error ", StringComparison.Ordinal), place = line.LastIndexOf(" [", StringComparison.Ordinal);
        string text = line[(code < 0 ? 0 : code + "error ".Length)..(place > code ? place : line.Length)];
        return text.TrimEnd('.');
    }

    private static long SizeOf(string folder)
    {
        try
        {
            return Directory.Exists(folder) ? new DirectoryInfo(folder).EnumerateFiles("*", SearchOption.AllDirectories).Sum(static file => file.Length) : 0;
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            // A file was moved away in this moment.
            return 0;
        }
    }

    private static async Task<FileStream> TakeTurnAsync(string path, CancellationToken cancellationToken)
    {
        for (bool told = false; ; told = true)
        {
            try
            {
                return new FileStream(path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None);
            }
            catch (IOException) when (File.Exists(path))
            {
                if (!told) await Console.Error.WriteLineAsync("skein: another process is getting LibTorch; waiting for it");
                await Task.Delay(Poll, cancellationToken);
            }
        }
    }

    private static InvalidOperationException Failure(string reason) => new(
        $"LibTorch {LibTorchPackage.Version} is not here and its package {LibTorchPackage.Name} could not be brought: {reason}; try again with skein doctor --fix when that is mended");
}

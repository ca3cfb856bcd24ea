using System.Diagnostics;
using System.Text.RegularExpressions;

namespace Skein.Workloads.Fetching;

/// <summary>
/// A package of Debian or a system made from it, taken apart in a folder of the user's: apt says where it is, and nothing is installed.
/// That needs no rights, and writes no file of the system.
/// </summary>
internal sealed partial class DebianPackage(string name, IProgress<FetchProgress>? progress)
{
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(2);

    // apt drops root's rights for downloads and then could not write where root's cache is. Whatever the system does after its
    // own update is not ours to do.
    private const string Settings =
        """
        #clear APT::Update;
        APT::Sandbox::User "root";
        Acquire::Languages "none";
        Acquire::Retries "1";
        Acquire::http::Timeout "20";
        Acquire::https::Timeout "20";
        """;

    /// <summary>Whether this system has what takes packages apart.</summary>
    internal static bool IsKnownHere => HasProgram("apt-get") && HasProgram("dpkg-deb");

    /// <summary>Returns the address of the package.</summary>
    /// <exception cref="FetchException">apt does not know the package, or does not reach its sources.</exception>
    internal async Task<Uri> LocateAsync(CancellationToken cancellationToken)
    {
        string folder = Directory.CreateTempSubdirectory("skein-apt-").FullName;
        try
        {
            string ofSystem = Configure(folder, "apt.conf", "");
            string[] locate = ["-qq", "download", "--print-uris", name];
            (string answer, _) = await RunAsync("apt-get", ["-c", ofSystem, .. locate], cancellationToken).ConfigureAwait(false);
            if (Read(answer) is { } known) return known;

            progress?.Report(new($"asking the package sources for {name}"));
            string ofOurs = Configure(folder, "fresh.conf", $"Dir::State::lists \"{Directory.CreateDirectory(Path.Combine(folder, "lists", "partial")).Parent}/\";");
            (_, string updating) = await RunAsync("apt-get", ["-c", ofOurs, "-qq", "update"], cancellationToken).ConfigureAwait(false);
            (answer, string locating) = await RunAsync("apt-get", ["-c", ofOurs, .. locate], cancellationToken).ConfigureAwait(false);
            return Read(answer) ?? throw new FetchException(LastLine(updating) ?? LastLine(locating) ?? "apt-get names no address of it");
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    /// <summary>Writes the files of a downloaded package below <paramref name="folder"/>.</summary>
    /// <exception cref="FetchException">It is damaged.</exception>
    internal static async Task UnpackAsync(string archive, string folder, CancellationToken cancellationToken)
    {
        (_, string errors) = await RunAsync("dpkg-deb", ["-x", archive, folder], cancellationToken).ConfigureAwait(false);
        if (LastLine(errors) is { } error) throw new FetchException(error);
    }

    private static string Configure(string folder, string file, string more)
    {
        string path = Path.Combine(folder, file);
        string cache = Directory.CreateDirectory(Path.Combine(folder, "cache", "archives", "partial")).Parent!.Parent!.FullName;
        File.WriteAllText(path, $"{Settings}\nDir::Cache \"{cache}/\";\n{more}\n");
        return path;
    }

    private static Uri? Read(string answer) => Address().Match(answer) is { Success: true } match ? new Uri(match.Groups[1].Value) : null;

    private static string? LastLine(string text) =>
        text.Split('\n', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries).LastOrDefault(static line => line.StartsWith("E:", StringComparison.Ordinal))?[2..].Trim()
        ?? text.Split('\n', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries).LastOrDefault();

    /// <returns>What it said on its two streams; on the second at least something when it failed.</returns>
    private static async Task<(string Output, string Errors)> RunAsync(string program, string[] arguments, CancellationToken cancellationToken)
    {
        var start = new ProcessStartInfo(program, arguments) { RedirectStandardInput = true, RedirectStandardOutput = true, RedirectStandardError = true };
        start.Environment["LC_ALL"] = "C";
        using Process process = Process.Start(start)!;
        process.StandardInput.Close();
        using var limit = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        limit.CancelAfter(Limit);
        try
        {
            Task<string> output = process.StandardOutput.ReadToEndAsync(limit.Token), errors = process.StandardError.ReadToEndAsync(limit.Token);
            await process.WaitForExitAsync(limit.Token).ConfigureAwait(false);
            string said = await errors.ConfigureAwait(false);
            string failure = process.ExitCode == 0 ? "" : string.IsNullOrWhiteSpace(said) ? $"{program} ended with {process.ExitCode}" : said;
            return (await output.ConfigureAwait(false), failure);
        }
        catch (OperationCanceledException)
        {
            process.Kill(entireProcessTree: true);
            cancellationToken.ThrowIfCancellationRequested();
            throw new FetchException($"{program} {arguments[^1]} came to no end in {Limit.TotalMinutes:0} minutes");
        }
    }

    private static bool HasProgram(string program) => (Environment.GetEnvironmentVariable("PATH") ?? "")
        .Split(Path.PathSeparator, StringSplitOptions.RemoveEmptyEntries).Any(folder => File.Exists(Path.Combine(folder, program)));

    [GeneratedRegex("^'(https?://[^']+)' ", RegexOptions.Multiline)]
    private static partial Regex Address();
}

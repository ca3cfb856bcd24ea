using System.Diagnostics;
using System.Formats.Tar;
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
            string[] locate = ["-qq", "download", "--print-uris", name];
            string systems = Configure(folder, "systems.conf", "");
            Said answer = await AskAptAsync(["-c", systems, .. locate], folder, cancellationToken).ConfigureAwait(false);
            if (ReadAddress(answer) is { } known) return known;

            progress?.Report(new($"asking the package sources for {name}"));
            string lists = Directory.CreateDirectory(Path.Combine(folder, "lists", "partial")).Parent!.FullName;
            string fresh = Configure(folder, "fresh.conf", $"Dir::State::lists \"{lists}/\";");
            Said update = await AskAptAsync(["-c", fresh, "-qq", "update"], folder, cancellationToken).ConfigureAwait(false);
            answer = await AskAptAsync(["-c", fresh, .. locate], folder, cancellationToken).ConfigureAwait(false);
            return ReadAddress(answer) ?? throw new FetchException(update.Problem ?? answer.Problem ?? "apt-get names no address of it");
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    /// <summary>Writes those of a downloaded package's files that are in one of its folders into another.</summary>
    /// <param name="archive">The package.</param>
    /// <param name="source">The folder of the package, as it would be in the system.</param>
    /// <param name="target">Where the files are to be; it is there.</param>
    /// <param name="cancellationToken">Ends it halfway.</param>
    /// <exception cref="FetchException">The package is damaged.</exception>
    /// <exception cref="IOException">The files cannot be written.</exception>
    internal static async Task UnpackAsync(string archive, string source, string target, CancellationToken cancellationToken)
    {
        Said said = await RunAsync("dpkg-deb", ["--fsys-tarfile", archive], target, ExtractAsync, cancellationToken).ConfigureAwait(false);
        if (said.ExitCode != 0) throw new FetchException(said.Problem ?? $"dpkg-deb ended with {said.ExitCode}");

        async Task<string> ExtractAsync(Stream stream, CancellationToken limit)
        {
            using var files = new TarReader(stream);
            while (await NextAsync(files, limit).ConfigureAwait(false) is { } entry)
            {
                string path = $"/{entry.Name.TrimStart('.', '/')}";
                bool isFile = entry.EntryType is TarEntryType.RegularFile or TarEntryType.V7RegularFile;
                if (!isFile || Path.GetDirectoryName(path) != source) continue;
                string extracted = Path.Combine(target, Path.GetFileName(path));
                await entry.ExtractToFileAsync(extracted, overwrite: true, limit).ConfigureAwait(false);
            }

            return "";
        }
    }

    private static async Task<TarEntry?> NextAsync(TarReader files, CancellationToken cancellationToken)
    {
        try
        {
            return await files.GetNextEntryAsync(cancellationToken: cancellationToken).ConfigureAwait(false);
        }
        catch (Exception error) when (error is InvalidDataException or EndOfStreamException)
        {
            throw new FetchException($"the package is damaged: {error.Message}", error);
        }
    }

    private static string Configure(string folder, string file, string more)
    {
        string path = Path.Combine(folder, file);
        string cache = Directory.CreateDirectory(Path.Combine(folder, "cache", "archives", "partial")).Parent!.Parent!.FullName;
        File.WriteAllText(path, $"{Settings}\nDir::Cache \"{cache}/\";\n{more}\n");
        return path;
    }

    private static Uri? ReadAddress(Said answer) =>
        Address().Match(answer.Output) is { Success: true } match ? new Uri(match.Groups[1].Value) : null;

    private static Task<Said> AskAptAsync(string[] arguments, string folder, CancellationToken cancellationToken) => RunAsync(
        "apt-get", arguments, folder, static (output, limit) => new StreamReader(output).ReadToEndAsync(limit), cancellationToken);

    private static async Task<Said> RunAsync(
        string program,
        string[] arguments,
        string folder,
        Func<Stream, CancellationToken, Task<string>> read,
        CancellationToken cancellationToken)
    {
        var start = new ProcessStartInfo(program, arguments)
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            // apt-get names no address of what lies in its folder already.
            WorkingDirectory = folder,
        };
        start.Environment["LC_ALL"] = "C";
        using Process process = Process.Start(start)!;
        process.StandardInput.Close();
        using var limit = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        limit.CancelAfter(Limit);
        try
        {
            Task<string> errors = process.StandardError.ReadToEndAsync(limit.Token);
            string output = await read(process.StandardOutput.BaseStream, limit.Token).ConfigureAwait(false);
            await process.WaitForExitAsync(limit.Token).ConfigureAwait(false);
            return new Said(process.ExitCode, output, await errors.ConfigureAwait(false));
        }
        catch (OperationCanceledException) when (!cancellationToken.IsCancellationRequested)
        {
            throw new FetchException($"{program} {arguments[^1]} came to no end in {Limit.TotalMinutes:0} minutes");
        }
        finally
        {
            if (!process.HasExited) process.Kill(entireProcessTree: true);
        }
    }

    private static bool HasProgram(string program) => (Environment.GetEnvironmentVariable("PATH") ?? "")
        .Split(Path.PathSeparator, StringSplitOptions.RemoveEmptyEntries).Any(folder => File.Exists(Path.Combine(folder, program)));

    [GeneratedRegex("^'(https?://[^']+)' ", RegexOptions.Multiline)]
    private static partial Regex Address();

    private sealed record Said(int ExitCode, string Output, string Errors)
    {
        /// <summary>The first line of the errors, which is the cause; what follows are consequences. Null: there is none.</summary>
        public string? Problem =>
            Errors.Split('\n', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries).FirstOrDefault();
    }
}

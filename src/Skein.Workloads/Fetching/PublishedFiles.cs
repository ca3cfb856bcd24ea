using System.IO.Compression;
using System.Security.Cryptography;
using Skein.Collectives.Rendezvous;
using Skein.Training.LibTorch;

namespace Skein.Workloads.Fetching;

/// <summary>
/// Compressed files that somebody publishes. They are where <c>SKEIN_DATA_DIR</c> says, else where the system's package puts them, else in
/// the user's cache, into which they are fetched: out of Debian's package where there are such packages, else from the publisher.
/// </summary>
internal sealed record PublishedFiles
{
    private const string GivenFolder = "SKEIN_DATA_DIR";

    /// <summary>What they are, for people.</summary>
    internal required string Name { get; init; }

    /// <summary>The SHA-256 of what each file holds when it is decompressed: package and publisher compress it differently.</summary>
    internal required IReadOnlyDictionary<string, string> Contents { get; init; }

    /// <summary>The folder's name, in the cache and in the folder that the user gave.</summary>
    internal required string FolderName { get; init; }

    /// <summary>Debian's package.</summary>
    internal required string Package { get; init; }

    /// <summary>Where that package puts them.</summary>
    internal required string PackageFolder { get; init; }

    /// <summary>The folder of the publisher, with a slash at its end.</summary>
    internal required Uri PublishedAt { get; init; }

    private static TimeSpan Patience => LauncherEnvironment.ReadTimeout() ?? TimeSpan.FromSeconds(300);

    private string Cache => UserCache.PathOf(FolderName);

    /// <inheritdoc cref="ExternalData.Find"/>
    internal string? Find()
    {
        if (Environment.GetEnvironmentVariable(GivenFolder) is { Length: > 0 } given)
        {
            string[] candidates = [given, Path.Combine(given, FolderName)];
            return Array.Find(candidates, HasAll)
                ?? throw new FileNotFoundException(
                    $"{GivenFolder} is {given}, but {Missing(given).First()} is not there; " +
                    $"put the {Contents.Count} files of {Name} there, or unset it");
        }

        return HasAll(PackageFolder) ? PackageFolder : HasAll(Cache) ? Cache : null;
    }

    /// <inheritdoc cref="ExternalData.FetchAsync"/>
    internal async Task<string> FetchAsync(IProgress<FetchProgress>? progress, CancellationToken cancellationToken)
    {
        if (Find() is { } found) return found;
        string cache = Cache;
        try
        {
            Directory.CreateDirectory(cache);
            using Turn turn = await Turn.TakeAsync(cache, Patience, progress, cancellationToken).ConfigureAwait(false);
            if (!HasAll(cache)) await FetchIntoAsync(cache, progress, cancellationToken).ConfigureAwait(false);
            return cache;
        }
        catch (Exception error) when (error is (IOException and not FileNotFoundException) or UnauthorizedAccessException)
        {
            throw new IOException(
                $"{Name} cannot be stored in {cache} ({error.Message}); make room there, or set XDG_CACHE_HOME to another folder, " +
                $"or {GivenFolder} to one that has the files",
                error);
        }
    }

    private async Task FetchIntoAsync(string cache, IProgress<FetchProgress>? progress, CancellationToken cancellationToken)
    {
        TimeSpan silence = TimeSpan.FromSeconds(Math.Min(30, Patience.TotalSeconds));
        using var download = new ResumableDownload(silence, progress);
        var failures = new List<string>();
        if (DebianPackage.IsKnownHere)
        {
            try
            {
                await FetchPackageAsync(download, cache, progress, cancellationToken).ConfigureAwait(false);
                return;
            }
            catch (FetchException error)
            {
                failures.Add($"as Debian's package {Package}: {error.Message}");
            }
        }

        try
        {
            foreach (string file in Missing(cache))
            {
                Task CheckPartAsync(string part) => CheckAsync(part, file, cancellationToken);
                Uri source = new(PublishedAt, file);
                await download.FetchAsync(source, Path.Combine(cache, file), file, CheckPartAsync, cancellationToken).ConfigureAwait(false);
            }
        }
        catch (FetchException error)
        {
            failures.Add($"from {PublishedAt}: {error.Message}");
            throw new FileNotFoundException(
                $"{Name} is not here and cannot be fetched ({string.Join("; ", failures)}); " +
                "bring this machine onto the network (http_proxy names a proxy), " +
                $"or set {GivenFolder} to a folder with {string.Join(", ", Contents.Keys)}",
                error);
        }
    }

    private async Task FetchPackageAsync(
        ResumableDownload download, string cache, IProgress<FetchProgress>? progress, CancellationToken cancellationToken)
    {
        Uri source = await new DebianPackage(Package, progress).LocateAsync(cancellationToken).ConfigureAwait(false);
        string archive = Path.Combine(cache, $"{Package}.deb"), unpacked = Path.Combine(cache, "unpacked");
        try
        {
            string what = $"{Name}, Debian's package {Package}";
            await download.FetchAsync(source, archive, what, UnpackAsync, cancellationToken).ConfigureAwait(false);
            foreach (string file in Contents.Keys) File.Move(Path.Combine(unpacked, file), Path.Combine(cache, file), overwrite: true);
        }
        finally
        {
            File.Delete(archive);
            if (Directory.Exists(unpacked)) Directory.Delete(unpacked, recursive: true);
        }

        async Task UnpackAsync(string part)
        {
            Directory.CreateDirectory(unpacked);
            await DebianPackage.UnpackAsync(part, PackageFolder, unpacked, cancellationToken).ConfigureAwait(false);
            foreach (string file in Contents.Keys)
            {
                await CheckAsync(Path.Combine(unpacked, file), file, cancellationToken).ConfigureAwait(false);
            }
        }
    }

    private async Task CheckAsync(string path, string file, CancellationToken cancellationToken)
    {
        string actual;
        try
        {
            using var compressed = new FileStream(path, FileMode.Open, FileAccess.ReadWrite);
            using var content = new GZipStream(compressed, CompressionMode.Decompress);
            actual = Convert.ToHexStringLower(await SHA256.HashDataAsync(content, cancellationToken).ConfigureAwait(false));

            // It gets its name next, which must not outlive its content when the machine loses power.
            compressed.Flush(flushToDisk: true);
        }
        catch (Exception error) when (error is InvalidDataException or FileNotFoundException)
        {
            throw new FetchException($"{file} is not what was published: {error.Message}", error);
        }

        if (actual == Contents[file]) return;
        throw new FetchException($"{file} is not what was published: its content has SHA-256 {actual} instead of {Contents[file]}");
    }

    private bool HasAll(string folder) => !Missing(folder).Any();

    private IEnumerable<string> Missing(string folder) => Contents.Keys.Where(file => !File.Exists(Path.Combine(folder, file)));
}

using System.Security.Cryptography;
using Skein.Training.LibTorch;

namespace Skein.Workloads;

/// <summary>
/// Finds the four files of Fashion-MNIST: where <c>SKEIN_DATA_DIR</c> says, else where Debian's package puts them, else in the
/// user's cache, into which they are downloaded when nothing else has them.
/// </summary>
internal static class FashionMnistFiles
{
    internal const string DebianDirectory = "/usr/share/datasets/fashion-mnist";
    internal static readonly Uri PublishedAt = new("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/");

    /// <summary>SHA-256 of the files as published.</summary>
    internal static readonly IReadOnlyDictionary<string, string> Published = new Dictionary<string, string>
    {
        ["train-images-idx3-ubyte.gz"] = "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        ["train-labels-idx1-ubyte.gz"] = "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        ["t10k-images-idx3-ubyte.gz"] = "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        ["t10k-labels-idx1-ubyte.gz"] = "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    };

    private const long LongestFile = 32 << 20;
    private static readonly TimeSpan DownloadTimeout = TimeSpan.FromMinutes(5);
    private static readonly TimeSpan LockRetry = TimeSpan.FromMilliseconds(100);

    internal static async Task<string> LocateAsync(CancellationToken cancellationToken)
    {
        if (Environment.GetEnvironmentVariable("SKEIN_DATA_DIR") is { Length: > 0 } given)
        {
            string[] candidates = [given, Path.Combine(given, "fashion-mnist")];
            return Array.Find(candidates, HasAll)
                ?? throw new FileNotFoundException($"SKEIN_DATA_DIR is {given}, but {Missing(given)} is not there; put the four files of Fashion-MNIST there, or unset it");
        }

        string cache = UserCache.PathOf("fashion-mnist");
        if (HasAll(DebianDirectory)) return DebianDirectory;
        if (!HasAll(cache)) await DownloadAsync(PublishedAt, Published, cache, cancellationToken).ConfigureAwait(false);
        return cache;
    }

    /// <summary>Downloads what is missing. Several processes may do so at once: one works, the others wait for it.</summary>
    internal static async Task DownloadAsync(Uri source, IReadOnlyDictionary<string, string> files, string directory, CancellationToken cancellationToken)
    {
        using var timeout = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        timeout.CancelAfter(DownloadTimeout);
        try
        {
            Directory.CreateDirectory(directory);
            using FileStream turn = await TakeTurnAsync(Path.Combine(directory, ".lock"), timeout.Token).ConfigureAwait(false);
            using var client = new HttpClient { MaxResponseContentBufferSize = LongestFile };
            foreach ((string name, string hash) in files.Where(file => !File.Exists(Path.Combine(directory, file.Key))))
            {
                byte[] content = await client.GetByteArrayAsync(new Uri(source, name), timeout.Token).ConfigureAwait(false);
                string actual = Convert.ToHexStringLower(SHA256.HashData(content));
                if (actual != hash) throw new InvalidDataException($"{name} has SHA-256 {actual} instead of {hash}");
                UserCache.Write(Path.Combine(directory, name), content);
            }
        }
        catch (Exception e) when (!cancellationToken.IsCancellationRequested
            && e is HttpRequestException or OperationCanceledException or IOException or InvalidDataException or UnauthorizedAccessException)
        {
            string reason = e is OperationCanceledException ? $"no end after {DownloadTimeout.TotalMinutes} minutes" : e.Message;
            throw new FileNotFoundException(
                $"Fashion-MNIST is not here and could not be downloaded from {source} ({reason}); install Debian's package dataset-fashion-mnist, or set SKEIN_DATA_DIR to a folder with {string.Join(", ", files.Keys)}", e);
        }
    }

    private static async Task<FileStream> TakeTurnAsync(string path, CancellationToken cancellationToken)
    {
        while (true)
        {
            try
            {
                return new FileStream(path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None);
            }
            catch (IOException) when (File.Exists(path))
            {
                await Task.Delay(LockRetry, cancellationToken).ConfigureAwait(false);
            }
        }
    }

    private static bool HasAll(string directory) => Published.Keys.All(name => File.Exists(Path.Combine(directory, name)));

    private static string Missing(string directory) => Published.Keys.First(name => !File.Exists(Path.Combine(directory, name)));
}

using System.Net;
using System.Net.Http.Headers;

namespace Skein.Workloads.Fetching;

/// <summary>
/// Downloads files over HTTP. What has come of a file is kept beside it as <c>.part</c> when the download breaks off, and the next
/// one, of this process or another, asks for the rest only.
/// </summary>
internal sealed class ResumableDownload(TimeSpan silence, IProgress<FetchProgress>? progress) : IDisposable
{
    /// <summary>More than any of the files has; a server that sends without end fills no disk.</summary>
    internal const long LongestFile = 64 << 20;

    private const int Attempts = 4;
    private readonly HttpClient client = new() { Timeout = Timeout.InfiniteTimeSpan };

    /// <summary>Leaves the whole file at <paramref name="path"/>, once <paramref name="check"/> has found it right.</summary>
    /// <param name="source">Where it is.</param>
    /// <param name="path">Where it is to be.</param>
    /// <param name="what">What it is, for people.</param>
    /// <param name="check">
    /// Puts the file at the path that it is given onto the disk, or throws <see cref="FetchException"/> when it is not what is wanted.
    /// </param>
    /// <param name="cancellationToken">Ends the download; what has come is kept.</param>
    /// <exception cref="FetchException">The source has it not, does not answer, or has something else. No wrong file is kept.</exception>
    /// <exception cref="IOException">It cannot be stored.</exception>
    internal async Task FetchAsync(Uri source, string path, string what, Func<string, Task> check, CancellationToken cancellationToken)
    {
        string part = $"{path}.part";
        while (true)
        {
            bool resumed = await CompleteAsync(source, part, what, cancellationToken).ConfigureAwait(false);
            try
            {
                await check(part).ConfigureAwait(false);
                File.Move(part, path, overwrite: true);
                return;
            }
            catch (FetchException)
            {
                File.Delete(part);
                // What was kept may have been of another version of the file: once more from its beginning.
                if (!resumed) throw;
            }
        }
    }

    public void Dispose() => client.Dispose();

    /// <returns>Whether the beginning was there from an earlier download.</returns>
    private async Task<bool> CompleteAsync(Uri source, string part, string what, CancellationToken cancellationToken)
    {
        var file = new FileStream(part, FileMode.OpenOrCreate, FileAccess.Write, FileShare.Read | FileShare.Delete);
        await using (file.ConfigureAwait(false))
        {
            bool resumed = file.Length > 0;
            for (int attempt = 1; ; attempt++)
            {
                long before = file.Length;
                try
                {
                    return await ContinueAsync(source, file, what, cancellationToken).ConfigureAwait(false) && resumed;
                }
                catch (FetchException)
                {
                    // When the connection broke after some of it had come, the rest is worth asking for.
                    if (attempt < Attempts && file.Length > before) continue;
                    if (file.Length == 0) File.Delete(part);
                    throw;
                }
            }
        }
    }

    /// <summary>Asks for what <paramref name="file"/> lacks.</summary>
    /// <returns>Whether what <paramref name="file"/> held was of use.</returns>
    private async Task<bool> ContinueAsync(Uri source, FileStream file, string what, CancellationToken cancellationToken)
    {
        using var patience = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        using var request = new HttpRequestMessage(HttpMethod.Get, source);
        if (file.Length > 0) request.Headers.Range = new RangeHeaderValue(file.Length, null);
        using HttpResponseMessage response = await HearAsync(
            () => client.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, patience.Token)).ConfigureAwait(false);
        bool continues = response.StatusCode == HttpStatusCode.PartialContent && response.Content.Headers.ContentRange?.From == file.Length;
        if (response.StatusCode == HttpStatusCode.RequestedRangeNotSatisfiable && file.Length > 0)
        {
            if (response.Content.Headers.ContentRange?.Length == file.Length) return true;
            file.SetLength(0);
            return await ContinueAsync(source, file, what, cancellationToken).ConfigureAwait(false);
        }

        if (!continues)
        {
            if (response.StatusCode != HttpStatusCode.OK)
            {
                throw new FetchException($"{source.Host} answers {(int)response.StatusCode} {response.ReasonPhrase}");
            }

            file.SetLength(0);
        }

        long total = file.Length + (response.Content.Headers.ContentLength ?? 0);
        Stream body = await HearAsync(() => response.Content.ReadAsStreamAsync(patience.Token)).ConfigureAwait(false);
        file.Seek(0, SeekOrigin.End);
        byte[] buffer = new byte[1 << 16];
        while (await HearAsync(() => body.ReadAsync(buffer, patience.Token).AsTask()).ConfigureAwait(false) is > 0 and int count)
        {
            if (file.Position + count > LongestFile) throw new FetchException($"{source} is longer than {LongestFile >> 20} MiB");
            await file.WriteAsync(buffer.AsMemory(0, count), cancellationToken).ConfigureAwait(false);
            progress?.Report(new(what, file.Position, total));
        }

        return continues;

        // Whatever goes wrong in here is the network's doing, and in the file the disk's.
        async Task<T> HearAsync<T>(Func<Task<T>> listen)
        {
            patience.CancelAfter(silence);
            try
            {
                return await listen().ConfigureAwait(false);
            }
            catch (Exception error) when (error is HttpRequestException or IOException)
            {
                throw new FetchException(error.Message, error);
            }
            catch (OperationCanceledException error) when (!cancellationToken.IsCancellationRequested)
            {
                throw new FetchException($"{source.Host} was silent for {silence.TotalSeconds:0} s", error);
            }
        }
    }
}

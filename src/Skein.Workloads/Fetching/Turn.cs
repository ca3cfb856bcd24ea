using System.Diagnostics;

namespace Skein.Workloads.Fetching;

/// <summary>
/// The right to change a folder, which one process has at a time. It is a lock on a file, so that it ends with its holder, however
/// that ends.
/// </summary>
internal sealed class Turn : IDisposable
{
    internal const string FileName = ".lock";

    private static readonly TimeSpan Retry = TimeSpan.FromMilliseconds(100);
    private static readonly TimeSpan Notice = TimeSpan.FromSeconds(1);

    // EWOULDBLOCK of Linux and of macOS, and Windows' sharing violation.
    private static readonly int[] Taken = [11, 35, unchecked((int)0x80070020)];

    private readonly FileStream file;

    private Turn(FileStream file) => this.file = file;

    /// <summary>Waits for the other process for as long as the folder grows or shrinks, and <paramref name="limit"/> longer.</summary>
    /// <exception cref="TimeoutException">The other process did nothing for <paramref name="limit"/>.</exception>
    internal static async Task<Turn> TakeAsync(
        string folder, TimeSpan limit, IProgress<FetchProgress>? progress, CancellationToken cancellationToken)
    {
        string path = Path.Combine(folder, FileName);
        var waiting = Stopwatch.StartNew();
        var silence = Stopwatch.StartNew();
        long seen = 0;
        bool told = false;
        while (true)
        {
            try
            {
                return new Turn(new FileStream(path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None));
            }
            catch (IOException error) when (Taken.Contains(error.HResult))
            {
                if (!told && waiting.Elapsed > Notice)
                {
                    progress?.Report(new($"waiting for another process, which fetches the same into {folder}"));
                    told = true;
                }

                long size = SizeOf(folder);
                if (size != seen) silence.Restart();
                seen = size;
                if (silence.Elapsed > limit)
                {
                    throw new TimeoutException(
                        $"another process holds {path} and has fetched nothing for {limit.TotalSeconds:0} s: " +
                        $"end it (fuser {path} names it), then start again");
                }

                await Task.Delay(Retry, cancellationToken).ConfigureAwait(false);
            }
        }
    }

    public void Dispose() => file.Dispose();

    private static long SizeOf(string folder)
    {
        try
        {
            return new DirectoryInfo(folder).EnumerateFiles("*", SearchOption.AllDirectories).Sum(static entry => entry.Length);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            // A file went away between its being listed and its being looked at: the other process is at work.
            return -1;
        }
    }
}

using System.Text;

namespace Skein.Hosting;

/// <summary>
/// Carries one process's two output streams to the console and to its log, and remembers its last lines.
/// </summary>
internal sealed class WorkerOutput : IDisposable
{
    private const int RememberedLines = 20;

    private static readonly Lock Console = new();
    private static readonly Stream StandardOutput = System.Console.OpenStandardOutput();
    private static readonly Stream StandardError = System.Console.OpenStandardError();

    private readonly Lock gate = new();
    private readonly Queue<string> lastLines = new();
    private readonly string label;
    private FileStream? log;
    private readonly byte[] prefix;
    private readonly bool showLines;
    private readonly bool showRaw;

    /// <param name="label">What its lines are shown behind.</param>
    /// <param name="logName">Its log, in the run directory.</param>
    /// <param name="leads">Whether it is the one whose output is shown where only one's is.</param>
    /// <param name="options">What is shown, and where logs go.</param>
    /// <param name="append">Whether its log goes on that of a process before it.</param>
    public WorkerOutput(string label, string logName, bool leads, LaunchOptions options, bool append = false)
    {
        this.label = label;
        prefix = Encoding.UTF8.GetBytes($"[{label}] ");
        showLines = options.Output == LaunchOutput.Prefixed;
        showRaw = options.Output == LaunchOutput.RankZero && leads;
        if (options.RunDirectory is { } directory)
        {
            Directory.CreateDirectory(directory);
            log = new FileStream(
                Path.Combine(directory, logName), append ? FileMode.Append : FileMode.Create, FileAccess.Write, FileShare.ReadWrite, bufferSize: 0);
        }
    }

    /// <summary>The last lines of both streams, in the order in which they came.</summary>
    public IReadOnlyList<string> LastLines
    {
        get
        {
            lock (gate) return [.. lastLines];
        }
    }

    /// <summary>Carries both streams until their ends; ends when the program and all that inherited its streams have closed them.</summary>
    public Task CarryAsync(Stream output, Stream error) =>
        Task.WhenAll(CarryOneAsync(output, StandardOutput), CarryOneAsync(error, StandardError));

    public void Dispose() => log?.Dispose();

    private async Task CarryOneAsync(Stream source, Stream destination)
    {
        var splitter = new LineSplitter();
        var buffer = new byte[16 * 1024];
        int count;
        while ((count = await ReadAsync(source, buffer).ConfigureAwait(false)) > 0)
        {
            var bytes = buffer.AsMemory(0, count);
            // A progress bar rewrites its line and never ends it, so the raw form is not held back for line ends.
            if (showRaw) Show(destination, bytes.Span);
            splitter.Append(bytes.Span, line => Keep(line, destination));
        }

        splitter.Flush(line => Keep(line, destination));
    }

    private static async Task<int> ReadAsync(Stream source, byte[] buffer)
    {
        try
        {
            return await source.ReadAsync(buffer).ConfigureAwait(false);
        }
        catch (Exception error) when (error is IOException or ObjectDisposedException or OperationCanceledException)
        {
            return 0;
        }
    }

    private void Keep(ReadOnlyMemory<byte> line, Stream destination)
    {
        lock (gate)
        {
            lastLines.Enqueue(Encoding.UTF8.GetString(line.Span));
            if (lastLines.Count > RememberedLines) lastLines.Dequeue();
            Log(line.Span);
        }

        if (showLines) Show(destination, [.. prefix, .. line.Span, (byte)'\n']);
    }

    // A worker whose output nobody reads stops when its pipe is full, so a log that cannot be written ends, and not its reader.
    private void Log(ReadOnlySpan<byte> line)
    {
        if (log is not { CanWrite: true }) return;
        try
        {
            log.Write([.. line, (byte)'\n']);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            Show(StandardError, Encoding.UTF8.GetBytes($"skein: the log of [{label}] ends here: {error.Message}; the job goes on\n"));
            log.Dispose();
            log = null;
        }
    }

    private static void Show(Stream destination, ReadOnlySpan<byte> bytes)
    {
        lock (Console)
        {
            try
            {
                destination.Write(bytes);
                destination.Flush();
            }
            catch (IOException)
            {
                // Nobody reads the launcher's output any more (as in `skein launch … | head`); the job goes on.
            }
        }
    }
}

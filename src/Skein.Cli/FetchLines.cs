using System.Diagnostics;
using Skein.Workloads;

namespace Skein.Cli;

/// <summary>
/// Tells on stderr what is being fetched: on a terminal in one line that counts, else in a line at the start of each transfer, one every few
/// seconds, and one at its end.
/// </summary>
internal sealed class FetchLines : IProgress<FetchProgress>, IDisposable
{
    private const double Megabyte = 1e6;
    private static readonly TimeSpan Interval = TimeSpan.FromSeconds(5);
    private static readonly TimeSpan Blink = TimeSpan.FromSeconds(0.2);

    private readonly bool terminal = !Console.IsErrorRedirected;
    private string current = "";
    private bool open;
    private long shown;

    /// <inheritdoc/>
    public void Report(FetchProgress value)
    {
        bool begins = value.What != current;
        bool ends = value.Total > 0 && value.Bytes == value.Total;
        if (!begins && !ends && Stopwatch.GetElapsedTime(shown) < (terminal ? Blink : Interval)) return;
        if (begins) Close();
        current = value.What;
        shown = Stopwatch.GetTimestamp();
        bool counts = value.Total > 0;
        string line = counts ? $"fetching {value.What}: {value.Bytes / Megabyte:0.0} of {value.Total / Megabyte:0.0} MB" : value.What;
        open = terminal && counts;
        if (open) Console.Error.Write($"\r{line}");
        else Console.Error.WriteLine(line);
    }

    /// <summary>Ends the line that counts.</summary>
    private void Close()
    {
        if (open) Console.Error.WriteLine();
        open = false;
    }

    /// <inheritdoc/>
    public void Dispose() => Close();
}

using System.Diagnostics;

namespace Skein.Cli.LibTorch;

/// <summary>Tells how far a download has come: on a terminal in one line that changes, else in a line every few seconds.</summary>
internal sealed class LibTorchProgress(TextWriter output, bool isTerminal)
{
    private static readonly TimeSpan BetweenLines = TimeSpan.FromSeconds(10);

    private readonly Stopwatch sinceLine = new();

    public void Report(long downloaded, long toDownload, long unpacked, long toUnpack)
    {
        if (sinceLine.IsRunning && !isTerminal && sinceLine.Elapsed < BetweenLines) return;
        sinceLine.Restart();
        string text = unpacked == 0
            ? $"skein: getting LibTorch, once: {Megabytes(downloaded)} of {Megabytes(toDownload)} MB"
            : $"skein: unpacking LibTorch: {Megabytes(Math.Min(unpacked, toUnpack))} of {Megabytes(toUnpack)} MB";
        if (isTerminal) output.Write($"\r{text}   ");
        else output.WriteLine(text);
    }

    public void End()
    {
        if (isTerminal) output.WriteLine();
    }

    private static long Megabytes(long bytes) => bytes / 1_000_000;
}

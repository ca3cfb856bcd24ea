using System.Buffers;

namespace Skein.Hosting;

/// <summary>Cuts a stream of bytes into lines. Not thread-safe.</summary>
internal sealed class LineSplitter
{
    // A program that never ends its line must not take all memory.
    internal const int MaximumLine = 1 << 20;

    private readonly ArrayBufferWriter<byte> pending = new();

    /// <summary>Calls <paramref name="onLine"/> with each line that <paramref name="bytes"/> completes, without its line end.</summary>
    public void Append(ReadOnlySpan<byte> bytes, Action<ReadOnlyMemory<byte>> onLine)
    {
        while (bytes.Length > 0)
        {
            var end = bytes.IndexOf((byte)'\n');
            var part = end < 0 ? bytes : bytes[..end];
            var room = MaximumLine - pending.WrittenCount;
            if (part.Length > room)
            {
                pending.Write(part[..room]);
                bytes = bytes[room..];
                Flush(onLine);
                continue;
            }

            pending.Write(part);
            if (end < 0) return;
            bytes = bytes[(end + 1)..];
            Emit(onLine);
        }
    }

    /// <summary>Calls <paramref name="onLine"/> with what has come since the last line end, if anything.</summary>
    public void Flush(Action<ReadOnlyMemory<byte>> onLine)
    {
        if (pending.WrittenCount > 0) Emit(onLine);
    }

    private void Emit(Action<ReadOnlyMemory<byte>> onLine)
    {
        var line = pending.WrittenMemory;
        if (line.Length > 0 && line.Span[^1] == (byte)'\r') line = line[..^1];
        onLine(line);
        pending.ResetWrittenCount();
    }
}

using System.Buffers;
using System.Diagnostics;

namespace Skein.Collectives.Transports.Emulated;

/// <summary>
/// A transport behind a slower network: what is sent is copied, and handed on by a thread of its own when it is due.
/// The receiving side is the inner transport's.
/// </summary>
internal sealed class EmulatedTransport : Transport
{
    // Small beside what leaves within the latency of a network worth emulating, large beside the cost of handing it on.
    private const int ChunkBytes = 16 * 1024;

    private static readonly TimeSpan DrainTime = TimeSpan.FromSeconds(5);

    private readonly Transport inner;
    private readonly EmulatedLink link;
    private readonly Queue<Chunk>[] queues;
    private readonly object gate = new();
    private readonly Thread pump;
    private PeerUnreachable? failure;
    private bool closing;

    /// <param name="inner">A transport of bytes, whose sends and waits may come from two threads; disposed with this one.</param>
    /// <param name="link">The rank's line, shared by all its groups.</param>
    public EmulatedTransport(Transport inner, EmulatedLink link)
        : base(inner.Rank, inner.WorldSize)
    {
        this.inner = inner;
        this.link = link;
        queues = [.. Enumerable.Range(0, WorldSize).Select(static _ => new Queue<Chunk>())];
        pump = new Thread(Pump) { IsBackground = true, Name = $"skein-emulated-{Rank}" };
        pump.Start();
    }

    public override string Name => inner.Name;

    public override int PieceBytes => inner.PieceBytes;

    public override void Connect(int peer, TimeSpan timeout) => inner.Connect(peer, timeout);

    public override int TrySend(int peer, ReadOnlySpan<byte> header, ReadOnlySpan<byte> payload)
    {
        int sent = 0;
        while (sent < header.Length + payload.Length)
        {
            ThrowIfFailed();
            if (link.TicksUntilRoom() > 0) break;
            byte[] bytes = ArrayPool<byte>.Shared.Rent(ChunkBytes);
            ReadOnlySpan<byte> fromHeader = sent < header.Length ? header[sent..Math.Min(header.Length, sent + ChunkBytes)] : default;
            fromHeader.CopyTo(bytes);
            int start = Math.Max(0, sent - header.Length);
            int length = Math.Min(ChunkBytes - fromHeader.Length, payload.Length - start);
            payload.Slice(start, length).CopyTo(bytes.AsSpan(fromHeader.Length));
            length += fromHeader.Length;
            sent += length;
            lock (gate)
            {
                queues[peer].Enqueue(new Chunk(bytes, length, link.Reserve(length)));
                Monitor.Pulse(gate);
            }
        }

        return sent;
    }

    public override int TryReceive(int peer, Span<byte> header, Span<byte> payload) => inner.TryReceive(peer, header, payload);

    public override void Wait(ReadOnlySpan<int> sendPeers, ReadOnlySpan<int> receivePeers, int milliseconds)
    {
        ThrowIfFailed();
        if (sendPeers.Length > 0)
        {
            long ticks = link.TicksUntilRoom();
            if (ticks == 0) return;
            milliseconds = Math.Min(milliseconds, Milliseconds(ticks));
        }

        if (receivePeers.Length > 0) inner.Wait([], receivePeers, milliseconds);
        else Thread.Sleep(milliseconds);
    }

    public override void Dispose()
    {
        lock (gate)
        {
            closing = true;
            Monitor.Pulse(gate);
        }

        // What was sent before the end still arrives, as it would over a real line.
        pump.Join(DrainTime);
        inner.Dispose();
    }

    private void Pump()
    {
        try
        {
            while (true)
            {
                long now = Stopwatch.GetTimestamp();
                long next = long.MaxValue;
                int stuck = -1;
                for (int peer = 0; peer < queues.Length; peer++)
                {
                    while (Peek(peer) is { } chunk)
                    {
                        if (chunk.Due > now)
                        {
                            next = Math.Min(next, chunk.Due);
                            break;
                        }

                        if (!Deliver(peer, chunk))
                        {
                            stuck = peer;
                            break;
                        }
                    }
                }

                if (stuck >= 0) inner.Wait([stuck], [], Math.Clamp(Milliseconds(next - now), 1, 5));
                else if (!Rest(next)) return;
            }
        }
        catch (PeerUnreachable error)
        {
            Volatile.Write(ref failure, error);
        }
        catch (ObjectDisposedException)
        {
            // Closed before all was delivered.
        }
    }

    /// <summary>Hands a chunk on; false when the peer's stream is full.</summary>
    private bool Deliver(int peer, Chunk chunk)
    {
        while (chunk.Delivered < chunk.Length)
        {
            int moved = inner.TrySend(peer, default, chunk.Bytes.AsSpan(chunk.Delivered, chunk.Length - chunk.Delivered));
            if (moved == 0) return false;
            chunk.Delivered += moved;
        }

        lock (gate) queues[peer].Dequeue();
        ArrayPool<byte>.Shared.Return(chunk.Bytes);
        return true;
    }

    private Chunk? Peek(int peer)
    {
        lock (gate) return queues[peer].TryPeek(out Chunk? chunk) ? chunk : null;
    }

    /// <summary>Sleeps until <paramref name="next"/>, or until there is more; false when all is delivered and no more will come.</summary>
    private bool Rest(long next)
    {
        lock (gate)
        {
            if (next == long.MaxValue && Array.TrueForAll(queues, static queue => queue.Count == 0))
            {
                if (closing) return false;
                Monitor.Wait(gate);
                return true;
            }

            int milliseconds = Milliseconds(next - Stopwatch.GetTimestamp());
            if (milliseconds > 0) Monitor.Wait(gate, milliseconds);
            return true;
        }
    }

    private void ThrowIfFailed()
    {
        if (Volatile.Read(ref failure) is { } error) throw new PeerUnreachable(error.Peer, error.Message);
    }

    private static int Milliseconds(long ticks) => (int)Math.Clamp(Math.Ceiling(ticks * 1e3 / Stopwatch.Frequency), 0, 1000);

    /// <summary>Bytes on their way to one peer.</summary>
    private sealed class Chunk(byte[] bytes, int length, long due)
    {
        public byte[] Bytes { get; } = bytes;

        public int Length { get; } = length;

        public long Due { get; } = due;

        public int Delivered { get; set; }
    }
}

namespace Skein.Collectives.Transports;

/// <summary>
/// Byte streams between the ranks of one group: one ordered, reliable stream in each direction of each pair. Nothing
/// here blocks but <see cref="Wait"/>; the algorithms move bytes in both directions at once by trying.
/// </summary>
/// <remarks>
/// A transport whose fabric carries messages rather than bytes (MPI) may send each piece that it is given as one
/// message: both sides of a stream cut it into the same pieces (<see cref="PieceBytes"/>). One thread at a time may
/// send and one may receive; <see cref="Wait"/> belongs to either, not to both at once.
/// </remarks>
internal abstract class Transport(int rank, int worldSize) : IDisposable
{
    /// <summary>The largest piece that is passed to one <see cref="TrySend"/> or <see cref="TryReceive"/>, headers aside.</summary>
    public virtual int PieceBytes => 256 * 1024;

    /// <summary>This process's rank in the group.</summary>
    public int Rank { get; } = rank;

    /// <summary>The number of ranks in the group.</summary>
    public int WorldSize { get; } = worldSize;

    /// <summary>The name as the command line and the JSON spell it.</summary>
    public abstract string Name { get; }

    /// <summary>Opens the stream to <paramref name="peer"/> if that is still to be done. The receiving side need do nothing.</summary>
    public virtual void Connect(int peer, TimeSpan timeout) { }

    /// <summary>
    /// Sends as much of <paramref name="header"/> and then <paramref name="payload"/> as goes without waiting, and
    /// returns the number of bytes that went. When it is less than both together, the next call continues there.
    /// </summary>
    public abstract int TrySend(int peer, ReadOnlySpan<byte> header, ReadOnlySpan<byte> payload);

    /// <summary>Fills <paramref name="header"/> and then <paramref name="payload"/> with what has arrived; returns the number of bytes.</summary>
    public abstract int TryReceive(int peer, Span<byte> header, Span<byte> payload);

    /// <summary>Blocks until one of the streams may move, for <paramref name="milliseconds"/> at most; may return early.</summary>
    public abstract void Wait(ReadOnlySpan<int> sendPeers, ReadOnlySpan<int> receivePeers, int milliseconds);

    /// <inheritdoc/>
    public abstract void Dispose();
}

/// <summary>A stream to <paramref name="peer"/> (its rank in the group) broke; the group turns it into the job's error.</summary>
internal sealed class PeerUnreachable(int peer, string reason) : IOException(reason)
{
    public int Peer { get; } = peer;
}

namespace Skein.Collectives.Transports;

/// <summary>Shared memory to the ranks of this host, TCP to all others.</summary>
internal sealed class RoutedTransport(Transport local, Transport remote, bool[] isLocal)
    : Transport(local.Rank, local.WorldSize)
{
    private const int MixedSliceMilliseconds = 1;

    public override string Name => $"{local.Name}+{remote.Name}";

    /// <summary>Ranks that talk to each other use the same transport, but all must cut their streams alike.</summary>
    public override int PieceBytes => Math.Min(local.PieceBytes, remote.PieceBytes);

    public override void Connect(int peer, TimeSpan timeout) => To(peer).Connect(peer, timeout);

    public override int TrySend(int peer, ReadOnlySpan<byte> header, ReadOnlySpan<byte> payload) =>
        To(peer).TrySend(peer, header, payload);

    public override int TryReceive(int peer, Span<byte> header, Span<byte> payload) =>
        To(peer).TryReceive(peer, header, payload);

    public override void Wait(ReadOnlySpan<int> sendPeers, ReadOnlySpan<int> receivePeers, int milliseconds)
    {
        bool anyLocal = false;
        Span<int> sends = stackalloc int[sendPeers.Length];
        Span<int> receives = stackalloc int[receivePeers.Length];
        int sendCount = Remote(sendPeers, sends, ref anyLocal), receiveCount = Remote(receivePeers, receives, ref anyLocal);
        if (sendCount + receiveCount == 0)
        {
            local.Wait(sendPeers, receivePeers, milliseconds);
            return;
        }

        // Nothing in the system sleeps on a socket and on shared memory at once, so look at both in turn.
        remote.Wait(sends[..sendCount], receives[..receiveCount], anyLocal ? MixedSliceMilliseconds : milliseconds);
    }

    public override void Dispose()
    {
        local.Dispose();
        remote.Dispose();
    }

    private Transport To(int peer) => isLocal[peer] ? local : remote;

    private int Remote(ReadOnlySpan<int> peers, Span<int> remotes, ref bool anyLocal)
    {
        int count = 0;
        foreach (int peer in peers)
        {
            if (isLocal[peer]) anyLocal = true;
            else remotes[count++] = peer;
        }

        return count;
    }
}

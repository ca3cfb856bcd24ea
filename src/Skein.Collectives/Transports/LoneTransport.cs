namespace Skein.Collectives.Transports;

/// <summary>The transport of a group of one, which has nobody to talk to.</summary>
internal sealed class LoneTransport() : Transport(0, 1)
{
    public override string Name => "none";

    public override int TrySend(int peer, ReadOnlySpan<byte> header, ReadOnlySpan<byte> payload) => 0;

    public override int TryReceive(int peer, Span<byte> header, Span<byte> payload) => 0;

    public override void Wait(ReadOnlySpan<int> sendPeers, ReadOnlySpan<int> receivePeers, int milliseconds) => Thread.Sleep(milliseconds);

    public override void Dispose() { }
}

using System.Runtime.InteropServices;

namespace Skein.Collectives.Transports.Mpi;

/// <summary>
/// Streams cut into MPI messages, which are copied through memory of the stream's own: no request ever refers to a
/// caller's memory, which may vanish when a call fails, and a fabric registers the same pages only once.
/// </summary>
/// <param name="rank">This process's rank in the group.</param>
/// <param name="worldRanks">The MPI rank of each rank of the group.</param>
/// <param name="mpi">The MPI world.</param>
/// <param name="tag">Keeps these streams apart from all others between the same processes.</param>
internal sealed partial class MpiTransport(int rank, int[] worldRanks, OpenMpi mpi, int tag) : Transport(rank, worldRanks.Length)
{
    private const int YieldsBeforeSleep = 16;
    private const uint FirstSleepMicroseconds = 50;
    private const uint LongestSleepMicroseconds = 1000;

    private readonly MpiSendStream?[] outgoing = new MpiSendStream?[worldRanks.Length];
    private readonly MpiReceiveStream?[] incoming = new MpiReceiveStream?[worldRanks.Length];

    public override string Name => "mpi";

    public override int PieceBytes => MpiStream.PieceBytes;

    public override int TrySend(int peer, ReadOnlySpan<byte> header, ReadOnlySpan<byte> payload)
    {
        try
        {
            return (outgoing[peer] ??= new MpiSendStream(mpi, worldRanks[peer], tag)).TrySend(header, payload);
        }
        catch (MpiException error)
        {
            throw new PeerUnreachable(peer, error.Message);
        }
    }

    public override int TryReceive(int peer, Span<byte> header, Span<byte> payload)
    {
        try
        {
            MpiReceiveStream stream = incoming[peer] ??= new MpiReceiveStream(mpi, worldRanks[peer], tag);
            int received = stream.TryReceive(header);
            return received == header.Length ? received + stream.TryReceive(payload) : received;
        }
        catch (MpiException error)
        {
            throw new PeerUnreachable(peer, error.Message);
        }
    }

    /// <remarks>MPI offers no wait that sleeps, so this looks, yields, and then sleeps for longer and longer.</remarks>
    public override void Wait(ReadOnlySpan<int> sendPeers, ReadOnlySpan<int> receivePeers, int milliseconds)
    {
        long end = Environment.TickCount64 + milliseconds;
        uint sleep = FirstSleepMicroseconds;
        for (int round = 0; !AnyReady(sendPeers, receivePeers) && Environment.TickCount64 < end; round++)
        {
            if (round < YieldsBeforeSleep)
            {
                Thread.Yield();
                continue;
            }

            _ = usleep(sleep);
            sleep = Math.Min(2 * sleep, LongestSleepMicroseconds);
        }
    }

    public override void Dispose()
    {
        foreach (MpiSendStream? stream in outgoing) stream?.Dispose();
        foreach (MpiReceiveStream? stream in incoming) stream?.Dispose();
    }

    private bool AnyReady(ReadOnlySpan<int> sendPeers, ReadOnlySpan<int> receivePeers)
    {
        foreach (int peer in sendPeers)
        {
            if (outgoing[peer] is not { Ready: false }) return true;
        }

        foreach (int peer in receivePeers)
        {
            if (incoming[peer] is not { Ready: false }) return true;
        }

        return false;
    }

    [LibraryImport("libc")]
    private static partial int usleep(uint microseconds);
}

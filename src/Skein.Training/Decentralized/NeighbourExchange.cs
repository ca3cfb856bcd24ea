using System.Runtime.InteropServices;
using Skein.Collectives;

namespace Skein.Training.Decentralized;

/// <summary>
/// One message to and from each neighbour: a payload, and when training is to stop. A wish to stop spreads from neighbour
/// to neighbour, and names a step so far ahead that everyone has heard of it by then. Not thread-safe.
/// </summary>
internal sealed class NeighbourExchange
{
    private const int Tag = 0x6055;
    private const int HeaderLength = 2 * sizeof(int);

    private readonly ProcessGroup group;
    private readonly IReadOnlyList<int> neighbours;
    private readonly byte[] outgoing;
    private readonly byte[][] incoming;
    private readonly List<CollectiveHandle> calls = [];
    private long stopAfter = long.MaxValue;

    /// <param name="group">All peers.</param>
    /// <param name="neighbours">This rank's, in a graph that is symmetric.</param>
    /// <param name="capacity">The most bytes of a payload.</param>
    public NeighbourExchange(ProcessGroup group, IReadOnlyList<int> neighbours, int capacity)
    {
        this.group = group;
        this.neighbours = neighbours;
        outgoing = NewMessage(capacity);
        incoming = [.. neighbours.Select(_ => NewMessage(capacity))];
    }

    /// <summary>All messages' bytes so far.</summary>
    public long BytesSent { get; private set; }

    /// <summary>Where the payload to be sent is written before <see cref="Start"/>.</summary>
    public Span<byte> Payload => outgoing.AsSpan(HeaderLength);

    /// <summary>This rank wants to stop: all end after the same step, at most as many steps from now as there are ranks.</summary>
    public void RequestStop(long step) => stopAfter = Math.Min(stopAfter, step + group.WorldSize);

    /// <summary>After the last step of a fit, when no message is on its way: a wish to stop is not for the next fit.</summary>
    public void ForgetStop() => stopAfter = long.MaxValue;

    /// <summary>Whether training ends after <paramref name="step"/>; the same on every rank.</summary>
    public bool StopsAfter(long step) => step >= stopAfter;

    /// <summary>Starts to send and receive; <see cref="Payload"/> is left alone until <see cref="Finish"/>.</summary>
    /// <param name="length">The bytes of the payload.</param>
    /// <param name="step">The number of this step, the same on every rank.</param>
    public void Start(int length, long step)
    {
        // How far ahead, so that it fits; 0 is never.
        int ahead = stopAfter == long.MaxValue ? 0 : (int)(stopAfter - step) + 1;
        MemoryMarshal.Write(outgoing, length);
        MemoryMarshal.Write(outgoing.AsSpan(sizeof(int)), ahead);
        for (int i = 0; i < neighbours.Count; i++) calls.Add(group.RecvAsync<byte>(incoming[i], neighbours[i], Tag));
        foreach (int neighbour in neighbours) calls.Add(group.SendAsync<byte>(outgoing.AsMemory(0, HeaderLength + length), neighbour, Tag));
        BytesSent += (long)neighbours.Count * (HeaderLength + length);
    }

    /// <summary>Waits for all messages that <see cref="Start"/> began.</summary>
    public void Finish(long step)
    {
        foreach (CollectiveHandle call in calls) call.Wait();
        calls.Clear();
        foreach (byte[] message in incoming)
        {
            int ahead = MemoryMarshal.Read<int>(message.AsSpan(sizeof(int)));
            if (ahead > 0) stopAfter = Math.Min(stopAfter, step + ahead - 1);
        }
    }

    /// <summary>What came from neighbour number <paramref name="index"/>.</summary>
    /// <exception cref="InvalidDataException">It announced more than it may send.</exception>
    public ReadOnlySpan<byte> Received(int index)
    {
        int length = MemoryMarshal.Read<int>(incoming[index]);
        return length >= 0 && length <= incoming[index].Length - HeaderLength
            ? incoming[index].AsSpan(HeaderLength, length)
            : throw new InvalidDataException($"rank {neighbours[index]} announced {length} bytes of gossip; at most {incoming[index].Length - HeaderLength} are possible");
    }

    private static byte[] NewMessage(int capacity) => GC.AllocateArray<byte>(checked(HeaderLength + capacity), pinned: true);
}

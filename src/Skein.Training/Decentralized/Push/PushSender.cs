using System.Net.Sockets;
using System.Runtime.InteropServices;
using Microsoft.Extensions.Logging;
using Skein.Collectives;

namespace Skein.Training.Decentralized;

/// <summary>What was delivered to a peer over the latest connection to it.</summary>
/// <param name="Incarnation">The process of that rank to which the connection went; 0 when there was none.</param>
/// <param name="Count">The messages.</param>
internal readonly record struct Delivery(int Incarnation, int Count);

/// <summary>
/// Pushes halves of x and w to one peer after the other in the background. One message is under way at most: while it is,
/// this peer keeps its mass. What cannot be delivered comes back into the sum. Called by one thread.
/// </summary>
internal sealed class PushSender : IAsyncDisposable
{
    /// <summary>The weight, before the vector.</summary>
    public const int HeaderLength = sizeof(double);

    private static readonly TimeSpan LongestSending = TimeSpan.FromSeconds(30);

    private readonly PushNetwork network;
    private readonly PushSum sum;
    private readonly Func<long, int> outNeighbour;
    private readonly byte[] message;
    private readonly Socket?[] links;
    private readonly Delivery[] delivered;
    private readonly Lock gate = new();
    private CancellationTokenSource? current;
    private int currentTarget;
    private Task sending = Task.CompletedTask;

    /// <param name="network">All peers.</param>
    /// <param name="sum">This peer's.</param>
    /// <param name="outNeighbour">To whom it pushes at which time, were nobody lost.</param>
    public PushSender(PushNetwork network, PushSum sum, Func<long, int> outNeighbour)
    {
        this.network = network;
        this.sum = sum;
        this.outNeighbour = outNeighbour;
        message = new byte[MessageLength(sum.Length)];
        links = new Socket?[network.WorldSize];
        delivered = new Delivery[network.WorldSize];
        network.PeerLost += GiveUp;
    }

    public long BytesSent { get; private set; }

    /// <summary>How many messages each peer was sent over its latest connection. Valid after <see cref="Drain"/>.</summary>
    public ReadOnlySpan<Delivery> Delivered => delivered;

    public static int MessageLength(int parameters) => checked(HeaderLength + (parameters * sizeof(float)));

    /// <summary>Starts to send half of this peer's mass, unless the last message is still under way or there is too little mass.</summary>
    public void Push(long step)
    {
        if (!sending.IsCompleted || Choose(step) is not { } target) return;
        double weight = sum.Split(Vector());
        if (weight == 0) return;
        MemoryMarshal.Write(message, weight);
        sending = Task.Run(() => SendAsync(target, weight));
    }

    /// <summary>Waits for the message that is under way, which each of its steps limits.</summary>
    public void Drain() => sending.GetAwaiter().GetResult();

    public async ValueTask DisposeAsync()
    {
        network.PeerLost -= GiveUp;
        lock (gate) current?.Cancel();
        await sending.ConfigureAwait(false);
        foreach (Socket? link in links) link?.Dispose();
    }

    private Span<float> Vector() => MemoryMarshal.Cast<byte, float>(message.AsSpan(HeaderLength));

    /// <summary>The out-neighbour, or where it is lost the next one, or where all are lost anyone.</summary>
    private int? Choose(long step)
    {
        int peers = network.WorldSize;
        IEnumerable<int> inOrder = Enumerable.Range(0, peers).Select(ahead => outNeighbour(step + ahead))
            .Concat(Enumerable.Range(1, peers - 1).Select(offset => (network.Rank + offset) % peers));
        foreach (int peer in inOrder)
        {
            if (!network.IsLost(peer)) return peer;
        }

        return null;
    }

    private async Task SendAsync(int target, double weight)
    {
        using var limit = new CancellationTokenSource();
        int incarnation = network.IncarnationOf(target);
        lock (gate) (current, currentTarget) = (limit, target);
        try
        {
            Socket link = await LinkAsync(target, limit.Token).ConfigureAwait(false);
            limit.CancelAfter(LongestSending);
            for (ReadOnlyMemory<byte> rest = message; !rest.IsEmpty;) rest = rest[await link.SendAsync(rest, SocketFlags.None, limit.Token).ConfigureAwait(false)..];
            delivered[target] = delivered[target] with { Count = delivered[target].Count + 1 };
            BytesSent += message.Length;
        }
        catch (Exception error) when (error is SocketException or IOException or OperationCanceledException or SkeinException)
        {
            // The other side drops what came in part.
            links[target]?.Dispose();
            links[target] = null;
            delivered[target] = default;
            sum.Receive(Vector(), weight);
            if (!network.IsLost(target)) network.Options.Logger.LogInformation("rank {Rank} no longer pushes to rank {Peer}: {Reason}", network.Rank, target, error.Message);
            network.MarkLost(target, incarnation);
        }
        finally
        {
            lock (gate) current = null;
        }
    }

    private async Task<Socket> LinkAsync(int target, CancellationToken cancellationToken)
    {
        if (links[target] is { } open)
        {
            // Nothing ever comes back on it, so that it can only be read from when it has ended. What is written to it
            // then would be lost without an error. A process that was replaced may still have its end open.
            if (delivered[target].Incarnation >= network.IncarnationOf(target) && !open.Poll(0, SelectMode.SelectRead)) return open;
            open.Dispose();
            links[target] = null;
        }

        (Socket link, int incarnation) = await network.ConnectAsync(target, PushLinkKind.Push, sum.Length, cancellationToken).ConfigureAwait(false);
        delivered[target] = new Delivery(incarnation, 0);
        return links[target] = link;
    }

    private void GiveUp(int peer)
    {
        lock (gate)
        {
            if (currentTarget == peer) current?.Cancel();
        }
    }
}

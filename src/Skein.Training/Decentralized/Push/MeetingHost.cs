using System.Diagnostics;
using System.Net.Sockets;
using Microsoft.Extensions.Logging;
using Skein.Collectives;
using Skein.Collectives.Rendezvous;

namespace Skein.Training.Decentralized;

/// <summary>Rank 0's side of a meeting: waits for all who are alive, and knows who is not by their connections.</summary>
internal sealed class MeetingHost(PushNetwork network, int maximumLength) : Meeting(network, maximumLength)
{
    private readonly Lock gate = new();
    private readonly FrameConnection?[] guests = new FrameConnection?[network.WorldSize];
    private readonly byte[]?[] brought = new byte[]?[network.WorldSize];
    private readonly bool[] gone = new bool[network.WorldSize];
    private readonly SemaphoreSlim changed = new(0);
    private bool disposed;

    /// <summary>Serves a peer until its connection ends.</summary>
    public async Task ServeAsync(int peer, Socket socket)
    {
        await using var guest = new FrameConnection(socket, MaximumLength);
        lock (gate)
        {
            if (disposed) return;
            guests[peer] = guest;
            brought[peer] = null;
            gone[peer] = false;
        }

        Network.MarkAlive(peer);
        try
        {
            while (await guest.ReceiveAsync().ConfigureAwait(false) is { } frame) Take(peer, guest, frame);
        }
        finally
        {
            Leave(peer, guest);
        }
    }

    /// <inheritdoc/>
    public override void RequestStop()
    {
        if (StopRequested) return;
        StopRequested = true;
        Tell(Stop, 0);
    }

    /// <inheritdoc/>
    public override byte[] Round(string what, byte[] mine, Func<byte[]?[], byte[]> answer)
    {
        byte[]?[] all = WaitForAll(what);
        all[0] = mine;
        byte[] result = answer(all);
        byte[] frame = Frame(Bring, Rounds++, result);
        lock (gate)
        {
            for (int peer = 1; peer < all.Length; peer++)
            {
                if (all[peer] is null) continue;
                brought[peer] = null;
                if (guests[peer] is { } guest) _ = guest.SendAsync(frame);
            }
        }

        return result;
    }

    /// <inheritdoc/>
    public override async ValueTask DisposeAsync()
    {
        FrameConnection[] open;
        lock (gate)
        {
            disposed = true;
            open = [.. guests.OfType<FrameConnection>()];
        }

        await Task.WhenAll(open.Select(static guest => guest.DisposeAsync().AsTask())).ConfigureAwait(false);
    }

    private byte[]?[] WaitForAll(string what)
    {
        TimeSpan limit = Network.Options.Timeout;
        for (long start = Stopwatch.GetTimestamp(); ;)
        {
            int[] missing;
            lock (gate)
            {
                missing = [.. Enumerable.Range(1, Network.WorldSize - 1).Where(peer => !gone[peer] && brought[peer] is null)];
                if (missing.Length == 0) return [.. brought.Select((bytes, peer) => gone[peer] ? null : bytes)];
            }

            TimeSpan rest = limit - Stopwatch.GetElapsedTime(start);
            if (rest > TimeSpan.Zero && changed.Wait(rest)) continue;
            throw new CollectiveTimeoutException($"rank 0 waited {limit.TotalSeconds:0.###} s for rank {string.Join(", ", missing)} in {what}");
        }
    }

    private void Take(int peer, FrameConnection guest, byte[] frame)
    {
        (byte kind, long number, byte[] content) = Read(frame);
        if (kind == Stop)
        {
            RequestStop();
            return;
        }

        lock (gate)
        {
            if (kind != Bring || brought[peer] is not null) throw new InvalidDataException($"rank {peer} brought something to round {number} out of turn");
            if (guests[peer] == guest) brought[peer] = content;
        }

        changed.Release();
    }

    private void Leave(int peer, FrameConnection guest)
    {
        lock (gate)
        {
            if (disposed || guests[peer] != guest) return;
            guests[peer] = null;
            gone[peer] = true;
        }

        Network.MarkLost(peer);
        Network.Options.Logger.LogInformation("rank {Peer} left rank 0", peer);
        Tell(Lost, peer);
        changed.Release();
    }

    private void Tell(byte kind, long number)
    {
        byte[] frame = Frame(kind, number, []);
        lock (gate)
        {
            foreach (FrameConnection? guest in guests) _ = guest?.SendAsync(frame);
        }
    }
}

using System.Diagnostics;
using System.Net.Sockets;
using Microsoft.Extensions.Logging;
using Skein.Collectives;
using Skein.Collectives.Rendezvous;

namespace Skein.Training.Decentralized;

/// <summary>
/// Rank 0's side of a meeting: waits for all who are alive, and knows who is not by their connections. Who comes after the
/// first round waits until it is admitted, and no round waits for it before.
/// </summary>
internal sealed class MeetingHost(PushNetwork network, int maximumLength) : Meeting(network, maximumLength)
{
    private readonly Lock gate = new();
    private readonly FrameConnection?[] guests = new FrameConnection?[network.WorldSize];
    private readonly Newcomer?[] newcomers = new Newcomer?[network.WorldSize];
    private readonly int[] incarnations = new int[network.WorldSize];
    private readonly byte[]?[] brought = new byte[]?[network.WorldSize];
    private readonly bool[] gone = new bool[network.WorldSize];
    private readonly SemaphoreSlim changed = new(0);
    private volatile bool asked;
    private byte[]? farewell;
    private bool begun;
    private bool disposed;

    /// <summary>How many times a rank came that had been there before, and was let in.</summary>
    public int Restarts { get; private set; }

    /// <summary>Whether somebody waits for <see cref="Admit"/>.</summary>
    public bool IsAsked => asked;

    /// <summary>Serves a process of a peer until its connection ends, or a later process of that rank comes.</summary>
    public async Task ServeAsync(int peer, int incarnation, Socket socket)
    {
        await using var guest = new FrameConnection(socket, MaximumLength);
        if (!Enter(peer, incarnation, guest)) return;
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
        Tell(Frame(Stop, 0, []));
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
                _ = guests[peer]?.SendAsync(frame);
            }
        }

        return result;
    }

    /// <summary>Lets those in who have come back. Between rounds, so that they take part in the next one.</summary>
    /// <param name="welcome">From a rank and what it brought to its first round makes the answer to that, and says whether it is let in.</param>
    public void Admit(Func<int, byte[], (byte[] Answer, bool Admitted)> welcome)
    {
        lock (gate)
        {
            asked = false;
            for (int peer = 1; peer < newcomers.Length; peer++)
            {
                if (newcomers[peer] is not { Brought: { } mine, Connection: { } guest }) continue;
                newcomers[peer] = null;
                (byte[] answer, bool admitted) = welcome(peer, mine);
                if (admitted) Seat(peer, guest);
                _ = guest.SendAsync(Frame(Bring, Rounds - 1, answer));
            }
        }
    }

    /// <summary>From now on nobody is let in; who comes is given this answer to its first round.</summary>
    public void Close(byte[] answer)
    {
        lock (gate)
        {
            farewell = answer;
            for (int peer = 1; peer < newcomers.Length; peer++) TurnAway(peer);
        }
    }

    /// <inheritdoc/>
    public override async ValueTask DisposeAsync()
    {
        FrameConnection[] open;
        lock (gate)
        {
            disposed = true;
            open = [.. guests.OfType<FrameConnection>(), .. newcomers.OfType<Newcomer>().Select(static newcomer => newcomer.Connection)];
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
                if (missing.Length == 0)
                {
                    begun = true;
                    return [.. brought.Select((bytes, peer) => gone[peer] ? null : bytes)];
                }
            }

            TimeSpan rest = limit - Stopwatch.GetElapsedTime(start);
            if (rest > TimeSpan.Zero && changed.Wait(rest)) continue;
            throw new CollectiveTimeoutException($"rank 0 waited {limit.TotalSeconds:0.###} s for rank {string.Join(", ", missing)} in {what}");
        }
    }

    /// <returns>False when there is no place for it: a later process of that rank is here.</returns>
    private bool Enter(int peer, int incarnation, FrameConnection guest)
    {
        FrameConnection? former;
        int formerIncarnation;
        bool replaces;
        lock (gate)
        {
            if (disposed || incarnation < incarnations[peer]) return false;
            former = guests[peer] ?? newcomers[peer]?.Connection;
            formerIncarnation = incarnations[peer];
            replaces = begun && guests[peer] is not null;
            incarnations[peer] = incarnation;
            brought[peer] = null;
            gone[peer] = begun;
            guests[peer] = begun ? null : guest;
            newcomers[peer] = begun ? new Newcomer(guest) : null;
            if (!begun)
            {
                Network.MarkAlive(peer, incarnation);
                if (incarnation > 1) Restarts++;
            }
        }

        // Without its connection to rank 0 a process that still runs ends.
        _ = former?.DisposeAsync().AsTask();
        if (replaces) SayLost(peer, formerIncarnation);
        return true;
    }

    /// <summary>Makes a newcomer one of the guests. It hears who the others are before it gets its answer.</summary>
    private void Seat(int peer, FrameConnection guest)
    {
        gone[peer] = false;
        Restarts++;
        if (StopRequested) _ = guest.SendAsync(Frame(Stop, 0, []));
        for (int other = 1; other < guests.Length; other++)
        {
            if (other != peer) _ = guest.SendAsync(News(gone[other] ? Lost : Alive, other, incarnations[other]));
        }

        Network.MarkAlive(peer, incarnations[peer]);
        Tell(News(Alive, peer, incarnations[peer]));
        guests[peer] = guest;
    }

    private void TurnAway(int peer)
    {
        if (newcomers[peer] is not { Brought: not null, Connection: { } guest } || farewell is null) return;
        newcomers[peer] = null;
        _ = guest.SendAsync(Frame(Bring, Rounds, farewell));
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
            if (kind != Bring) throw new InvalidDataException($"rank {peer} said something of kind {kind}, which there is not");
            if (newcomers[peer] is { } newcomer && newcomer.Connection == guest)
            {
                newcomer.Brought = content;
                asked = true;
                Network.Options.Logger.LogInformation("rank {Peer} has come back and asks rank 0 to be let in", peer);
                TurnAway(peer);
                return;
            }

            if (guests[peer] != guest) return;
            if (brought[peer] is not null) throw new InvalidDataException($"rank {peer} brought something to round {number} out of turn");
            brought[peer] = content;
        }

        changed.Release();
    }

    private void Leave(int peer, FrameConnection guest)
    {
        int incarnation;
        lock (gate)
        {
            if (newcomers[peer]?.Connection == guest) newcomers[peer] = null;
            if (disposed || guests[peer] != guest) return;
            guests[peer] = null;
            gone[peer] = true;
            incarnation = incarnations[peer];
        }

        SayLost(peer, incarnation);
    }

    private void SayLost(int peer, int incarnation)
    {
        Network.MarkLost(peer, incarnation);
        Network.Options.Logger.LogInformation("rank {Peer} left rank 0", peer);
        Tell(News(Lost, peer, incarnation));
        changed.Release();
    }

    private void Tell(byte[] frame)
    {
        lock (gate)
        {
            foreach (FrameConnection? guest in guests) _ = guest?.SendAsync(frame);
        }
    }

    /// <summary>Who came after the first round.</summary>
    private sealed class Newcomer(FrameConnection connection)
    {
        public FrameConnection Connection => connection;

        /// <summary>What it brought to its first round; null until it came.</summary>
        public byte[]? Brought { get; set; }
    }
}

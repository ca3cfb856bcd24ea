using System.Diagnostics;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using Skein.Collectives;

namespace Skein.Training.Decentralized;

/// <summary>Takes in what other peers push, whenever it comes. Thread-safe.</summary>
internal sealed class PushReceiver : IDisposable
{
    private readonly PushNetwork network;
    private readonly PushSum sum;
    private readonly Lock gate = new();
    private readonly Socket?[] links;
    private readonly int[] received;
    private readonly bool[] ended;
    private readonly SemaphoreSlim changed = new(0);
    private bool disposed;

    public PushReceiver(PushNetwork network, PushSum sum)
    {
        this.network = network;
        this.sum = sum;
        links = new Socket?[network.WorldSize];
        received = new int[network.WorldSize];
        ended = new bool[network.WorldSize];
    }

    /// <summary>Serves a connection, which replaces an earlier one of that peer, until a later process of that rank is there.</summary>
    public async Task ServeAsync(int peer, int incarnation, Socket socket)
    {
        using Socket owned = socket;
        lock (gate)
        {
            if (disposed || !network.MarkAlive(peer, incarnation)) return;
            links[peer]?.Dispose();
            links[peer] = socket;
            received[peer] = 0;
            ended[peer] = false;
        }

        var message = new byte[PushSender.MessageLength(sum.Length)];
        try
        {
            while (await ReadAsync(socket, message).ConfigureAwait(false) && Take(peer, incarnation, socket, message))
            {
            }
        }
        catch (Exception error) when (error is SocketException or ObjectDisposedException)
        {
            // As much as a connection that was closed: a message that did not come whole is the sender's again.
        }
        finally
        {
            lock (gate) ended[peer] |= links[peer] == socket;
            changed.Release();
        }
    }

    /// <summary>Waits until what a peer delivered over its latest connection is here, or the connection has ended.</summary>
    /// <param name="peer">The sender.</param>
    /// <param name="count">The messages that it delivered.</param>
    /// <exception cref="CollectiveTimeoutException">They did not come.</exception>
    public void WaitFor(int peer, int count)
    {
        for (long start = Stopwatch.GetTimestamp(); ;)
        {
            lock (gate)
            {
                if (received[peer] >= count || ended[peer]) return;
            }

            TimeSpan rest = network.Options.Timeout - Stopwatch.GetElapsedTime(start);
            if (rest > TimeSpan.Zero && changed.Wait(rest)) continue;
            throw new CollectiveTimeoutException(
                $"rank {network.Rank} waited {network.Options.Timeout.TotalSeconds:0.###} s for the last of {count} messages of rank {peer}, before the final average");
        }
    }

    public void Dispose()
    {
        lock (gate)
        {
            disposed = true;
            foreach (Socket? link in links) link?.Dispose();
        }
    }

    /// <returns>Whether more is wanted of this connection.</returns>
    private bool Take(int peer, int incarnation, Socket socket, byte[] message)
    {
        double weight = MemoryMarshal.Read<double>(message);
        if (!(weight > 0 && double.IsFinite(weight))) throw new InvalidDataException($"rank {peer} pushed a weight of {weight}; it is a number above 0");
        lock (gate)
        {
            if (links[peer] != socket || network.IncarnationOf(peer) != incarnation) return false;
            sum.Receive(MemoryMarshal.Cast<byte, float>(message.AsSpan(PushSender.HeaderLength)), weight);
            received[peer]++;
        }

        changed.Release();
        return true;
    }

    /// <returns>False at the end of the stream.</returns>
    private static async Task<bool> ReadAsync(Socket socket, Memory<byte> message)
    {
        while (!message.IsEmpty)
        {
            int count = await socket.ReceiveAsync(message, SocketFlags.None).ConfigureAwait(false);
            if (count == 0) return false;
            message = message[count..];
        }

        return true;
    }
}

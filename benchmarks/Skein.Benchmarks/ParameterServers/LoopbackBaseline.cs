using System.CommandLine;
using System.Diagnostics;
using System.Net;
using System.Net.Sockets;

namespace Skein.Benchmarks.ParameterServers;

/// <summary>
/// What loopback TCP between two processes can do at most: messages of one size, sent and received with large calls on
/// non-blocking sockets, to and from the same memory, with nothing done to the bytes.
/// </summary>
internal static class LoopbackBaseline
{
    private const byte OneWay = 1, BothWays = 2;
    private const int SliceMicroseconds = 1_000_000;

    private static readonly Argument<int> Port = new("port");
    private static readonly Argument<int> Length = new("length");

    /// <summary>The process at the other end.</summary>
    public static Command PeerCommand()
    {
        var command = new Command("loopback-peer") { Port, Length };
        command.Hidden = true;
        command.SetAction(RunPeer);
        return command;
    }

    /// <summary>Bytes per second in one direction: alone, and while as many go the other way.</summary>
    public static async Task<(double OneWay, double BothWays)> MeasureAsync(int length, int messages, CancellationToken cancellationToken)
    {
        using var listener = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        listener.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        listener.Listen(1);
        using Process peer = ChildProcess.StartSelf("loopback-peer", $"{((IPEndPoint)listener.LocalEndPoint!).Port}", $"{length}");
        using Socket socket = await listener.AcceptAsync(cancellationToken);
        socket.Blocking = false;
        using PinnedFloats sent = new(length, 1), received = new(length);
        Run(OneWay, 2);
        Run(BothWays, 2);
        double oneWay = Run(OneWay, messages), bothWays = Run(BothWays, messages);
        socket.Shutdown(SocketShutdown.Send);
        await peer.WaitForExitAsync(cancellationToken);
        return (oneWay, bothWays);

        double Run(byte what, int count)
        {
            Send(socket, [what, (byte)count]);
            Receive(socket, new byte[1]);
            long start = Stopwatch.GetTimestamp();
            Exchange(socket, what, count, sent, received, sends: true);
            // The peer has everything.
            Receive(socket, new byte[1]);
            return (double)count * sent.Bytes.Length / Stopwatch.GetElapsedTime(start).TotalSeconds;
        }
    }

    private static void RunPeer(ParseResult parsed)
    {
        using var socket = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        socket.Connect(IPAddress.Loopback, parsed.GetValue(Port));
        socket.Blocking = false;
        using PinnedFloats sent = new(parsed.GetValue(Length), 1), received = new(parsed.GetValue(Length));
        byte[] order = new byte[2];
        while (Receive(socket, order))
        {
            Send(socket, [0]);
            Exchange(socket, order[0], order[1], sent, received, sends: false);
            Send(socket, [0]);
        }
    }

    private static void Exchange(Socket socket, byte what, int count, PinnedFloats sent, PinnedFloats received, bool sends)
    {
        Thread? receiver = null;
        if (what == BothWays || !sends)
        {
            receiver = new Thread(() =>
            {
                for (int i = 0; i < count; i++) Receive(socket, received.Bytes);
            });
            receiver.Start();
        }

        for (int i = 0; i < count && (what == BothWays || sends); i++) Send(socket, sent.Bytes);
        receiver?.Join();
    }

    private static void Send(Socket socket, ReadOnlySpan<byte> bytes)
    {
        while (!bytes.IsEmpty)
        {
            int count = socket.Send(bytes, SocketFlags.None, out SocketError error);
            if (error == SocketError.WouldBlock) socket.Poll(SliceMicroseconds, SelectMode.SelectWrite);
            else if (error != SocketError.Success) throw new SocketException((int)error);
            else bytes = bytes[count..];
        }
    }

    /// <returns>False when the peer has closed its side.</returns>
    private static bool Receive(Socket socket, Span<byte> bytes)
    {
        while (!bytes.IsEmpty)
        {
            int count = socket.Receive(bytes, SocketFlags.None, out SocketError error);
            if (error == SocketError.WouldBlock) socket.Poll(SliceMicroseconds, SelectMode.SelectRead);
            else if (error != SocketError.Success) throw new SocketException((int)error);
            else if (count == 0) return false;
            else bytes = bytes[count..];
        }

        return true;
    }
}

using System.Globalization;
using System.Net;

namespace Skein.EndToEnd;

/// <summary>The TCP sockets that a process holds.</summary>
internal static class ProcessSockets
{
    private const string Established = "01";
    private const string Listens = "0A";

    /// <summary>The ports that it listens at.</summary>
    public static int[] Listening(int id) => [.. Of(id).Where(socket => socket.State == Listens).Select(socket => socket.Port)];

    /// <summary>The addresses that it listens at.</summary>
    public static IPAddress[] ListeningAddresses(int id) =>
        [.. Of(id).Where(socket => socket.State == Listens).Select(socket => socket.Address).Distinct()];

    /// <summary>How many connections others have opened to it.</summary>
    public static int Accepted(int id)
    {
        var sockets = Of(id).ToArray();
        var listening = sockets.Where(socket => socket.State == Listens).Select(socket => socket.Port).ToHashSet();
        return sockets.Count(socket => socket.State == Established && listening.Contains(socket.Port));
    }

    /// <summary>How many connections it has.</summary>
    public static int Connected(int id) => Of(id).Count(socket => socket.State == Established);

    private static IEnumerable<(string State, int Port, IPAddress Address)> Of(int id)
    {
        var held = Directory.EnumerateFiles($"/proc/{id}/fd").Select(path => new FileInfo(path).LinkTarget).ToHashSet();
        return File.ReadLines("/proc/net/tcp").Concat(File.ReadLines("/proc/net/tcp6"))
            .Select(line => line.Split(' ', StringSplitOptions.RemoveEmptyEntries))
            .Where(fields => held.Contains($"socket:[{fields[9]}]"))
            .Select(fields => (fields[3], fields[1].Split(':')))
            .Select(socket => (socket.Item1, int.Parse(socket.Item2[1], NumberStyles.HexNumber, CultureInfo.InvariantCulture), AddressOf(socket.Item2[0])));
    }

    // Words of four bytes, each in the machine's order.
    private static IPAddress AddressOf(string hex) => new([.. Convert.FromHexString(hex).Chunk(4).SelectMany(static word => word.Reverse())]);
}

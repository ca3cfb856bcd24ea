using System.Net;
using System.Net.Sockets;
using System.Text;
using Skein.Collectives;

namespace Skein.Cli.Doctor;

/// <summary>What carries bytes between ranks, each tried.</summary>
internal static class TransportChecks
{
    private const string SharedMemoryFolder = "/dev/shm";
    private const string PortRangeFile = "/proc/sys/net/ipv4/ip_local_port_range";

    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(2);

    public static Finding Tcp() => Exercise(
        "tcp", TransportKind.Tcp, () => "two ranks exchanged data over loopback", "bring the loopback interface up: ip link set lo up");

    public static Finding SharedMemory() => Exercise(
        "shm",
        TransportKind.SharedMemory,
        () => $"two ranks exchanged data{(Directory.Exists(SharedMemoryFolder) ? $"; {SharedMemoryFolder} has {new DriveInfo(SharedMemoryFolder).AvailableFreeSpace >> 20:N0} MiB free" : "")}",
        "train with --transport tcp");

    public static Finding Ports()
    {
        const string Name = "ports";
        var range = File.Exists(PortRangeFile) ? string.Join('-', File.ReadAllText(PortRangeFile).Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries)) : "unknown";
        try
        {
            using var listener = new TcpListener(IPAddress.Any, 0);
            listener.Start();
            return Finding.Ok(Name, $"the system hands out {range}; several hosts must let each other's through");
        }
        catch (SocketException error)
        {
            return Finding.Failed(Name, $"cannot listen on a port of {range}: {error.Message}", "free some ports (ss -ltn lists them)");
        }
    }

    public static Finding Redis()
    {
        const string Name = "redis";
        var address = (Environment.GetEnvironmentVariable("SKEIN_REDIS_STORE") ?? "127.0.0.1:6379").Split(',')[0];
        try
        {
            using var client = Connect(IPEndPoint.TryParse(address, out var endpoint) ? endpoint : Resolve(address));
            client.GetStream().Write("PING\r\n"u8);
            client.GetStream().ReadTimeout = (int)Patience.TotalMilliseconds;
            var reply = new byte[64];
            var count = client.GetStream().Read(reply);
            // A server that wants a password answers too, with an error.
            return count > 0 && reply[0] is (byte)'+' or (byte)'-'
                ? Finding.Ok(Name, $"answers at {address}")
                : Finding.Absent(Name, $"what answers at {address} is not Redis: {Encoding.ASCII.GetString(reply, 0, count)}", "set SKEIN_REDIS_STORE=HOST:PORT");
        }
        catch (Exception error) when (error is SocketException or IOException or TimeoutException)
        {
            return Finding.Absent(
                Name, $"none at {address}", "only for a store that outlives rank 0: apt-get install redis-server, then SKEIN_REDIS_STORE=HOST:PORT");
        }
    }

    private static Finding Exercise(string name, TransportKind transport, Func<string> detail, string remedy)
    {
        try
        {
            return Task.Run(() => AddUpAsync(transport)).GetAwaiter().GetResult()
                ? Finding.Ok(name, detail())
                : Finding.Failed(name, "two ranks added numbers and got a wrong sum", remedy);
        }
        catch (Exception error) when (error is SkeinException or IOException or SocketException)
        {
            return Finding.Failed(name, $"two ranks could not exchange data: {error.Message}", remedy);
        }
    }

    private static async Task<bool> AddUpAsync(TransportKind transport)
    {
        var options = new ProcessGroupOptions { Transport = transport, Timeout = TimeSpan.FromSeconds(10) };
        var groups = await ProcessGroup.CreateInProcessAsync(2, options);
        var correct = await Task.WhenAll(groups.Select(group => Task.Run(async () =>
        {
            await using (group)
            {
                var numbers = Enumerable.Repeat(group.Rank + 1f, 10_000).ToArray();
                group.AllReduce<float>(numbers);
                return numbers.All(number => number == 3f);
            }
        })));
        return correct.All(each => each);
    }

    private static DnsEndPoint Resolve(string address)
    {
        var colon = address.LastIndexOf(':');
        return colon > 0 && int.TryParse(address[(colon + 1)..], out var port)
            ? new DnsEndPoint(address[..colon], port)
            : new DnsEndPoint(address, 6379);
    }

    private static TcpClient Connect(EndPoint endpoint)
    {
        var client = new TcpClient();
        try
        {
            if (!client.Client.ConnectAsync(endpoint).Wait(Patience)) throw new TimeoutException($"no answer from {endpoint} in {Patience.TotalSeconds:0} s");
            return client;
        }
        catch (AggregateException error) when (error.InnerException is SocketException inner)
        {
            client.Dispose();
            throw inner;
        }
        catch
        {
            client.Dispose();
            throw;
        }
    }
}

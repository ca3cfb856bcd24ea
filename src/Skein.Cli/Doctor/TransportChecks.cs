using System.IO.MemoryMappedFiles;
using System.Net;
using System.Net.Sockets;
using System.Text;

namespace Skein.Cli.Doctor;

/// <summary>What carries bytes between ranks, each tried with a few bytes.</summary>
internal static class TransportChecks
{
    // A rank's staging memory at the default bucket size, times four.
    private const long EnoughSharedMemory = 256L << 20;
    private const string SharedMemoryFolder = "/dev/shm";
    private const string PortRangeFile = "/proc/sys/net/ipv4/ip_local_port_range";

    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(2);

    public static Finding Tcp()
    {
        const string Name = "tcp";
        try
        {
            using var listener = new TcpListener(IPAddress.Loopback, 0);
            listener.Start();
            using var client = Connect((IPEndPoint)listener.LocalEndpoint);
            using var server = listener.AcceptTcpClient();
            client.GetStream().Write("skein"u8);
            Span<byte> echo = stackalloc byte[5];
            server.GetStream().ReadTimeout = (int)Patience.TotalMilliseconds;
            server.GetStream().ReadExactly(echo);
            return echo.SequenceEqual("skein"u8)
                ? Finding.Ok(Name, "connected to itself on loopback")
                : Finding.Failed(Name, "bytes arrived changed on loopback", "look at what filters this machine's traffic");
        }
        catch (Exception error) when (error is SocketException or IOException or TimeoutException)
        {
            return Finding.Failed(Name, $"loopback does not work: {error.Message}", "bring the loopback interface up: ip link set lo up");
        }
    }

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

    public static Finding SharedMemory()
    {
        const string Name = "shm";
        var path = Path.Combine(SharedMemoryFolder, $"skein-doctor-{Guid.NewGuid():N}");
        try
        {
            using (var file = MemoryMappedFile.CreateFromFile(path, FileMode.CreateNew, null, 4096))
            using (var writer = file.CreateViewAccessor())
            using (var reader = file.CreateViewAccessor())
            {
                writer.Write(0, 42);
                if (reader.ReadInt32(0) != 42) return Finding.Failed(Name, "two mappings of one file differ", "use --transport tcp");
            }

            var free = new DriveInfo(SharedMemoryFolder).AvailableFreeSpace;
            var detail = $"{SharedMemoryFolder} has {free >> 20:N0} MiB free";
            return free >= EnoughSharedMemory
                ? Finding.Ok(Name, detail)
                : Finding.Failed(Name, detail, "enlarge it: mount -o remount,size=1g /dev/shm (in a container: --shm-size 1g), or use --transport tcp");
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            return Finding.Failed(Name, $"cannot map a file there: {error.Message}", $"mount -t tmpfs tmpfs {SharedMemoryFolder}, or use --transport tcp");
        }
        finally
        {
            File.Delete(path);
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

using System.Collections.Concurrent;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Text;
using System.Text.RegularExpressions;

namespace Skein.Workloads.Tests.Fetching;

/// <summary>An HTTP server for files by their last name, with ranges; it can fall short as networks do.</summary>
internal sealed partial class FileServer : IDisposable
{
    private readonly TcpListener listener = new(IPAddress.Loopback, 0);
    private readonly IReadOnlyDictionary<string, byte[]> files;

    public FileServer(IReadOnlyDictionary<string, byte[]> files)
    {
        this.files = files;
        listener.Start();
        _ = AcceptAsync();
    }

    public Uri Address => new($"http://{listener.LocalEndpoint}/");

    /// <summary>What was asked for so far: each file's name, and behind it where from when that was not its beginning.</summary>
    public ConcurrentQueue<string> Requests { get; } = new();

    /// <summary>After how many bytes of content a connection breaks.</summary>
    public int BreaksAfter { get; set; } = int.MaxValue;

    /// <summary>From when on requests are answered.</summary>
    public Task Opens { get; set; } = Task.CompletedTask;

    public void Dispose() => listener.Dispose();

    private async Task AcceptAsync()
    {
        try
        {
            while (true) _ = AnswerAsync(await listener.AcceptTcpClientAsync());
        }
        catch (Exception error) when (error is SocketException or ObjectDisposedException or InvalidOperationException)
        {
            // Disposed.
        }
    }

    private async Task AnswerAsync(TcpClient client)
    {
        using (client)
        {
            NetworkStream stream = client.GetStream();
            string request = await ReadRequestAsync(stream);
            string name = Name().Match(request).Groups[1].Value;
            Match range = Range().Match(request);
            int from = range.Success ? int.Parse(range.Groups[1].Value, CultureInfo.InvariantCulture) : 0;
            Requests.Enqueue(from == 0 ? name : $"{name} from {from}");
            await Opens;
            if (!files.TryGetValue(name, out byte[]? content))
            {
                await HeadAsync("404 Not Found", "", 0);
            }
            else if (from >= content.Length)
            {
                await HeadAsync("416 Range Not Satisfiable", $"Content-Range: bytes */{content.Length}\r\n", 0);
            }
            else
            {
                string part = $"Content-Range: bytes {from}-{content.Length - 1}/{content.Length}\r\n";
                await HeadAsync(from == 0 ? "200 OK" : "206 Partial Content", from == 0 ? "" : part, content.Length - from);
                await stream.WriteAsync(content.AsMemory(from, Math.Min(content.Length - from, BreaksAfter)));
            }

            ValueTask HeadAsync(string status, string header, int length) => stream.WriteAsync(Encoding.ASCII.GetBytes(
                $"HTTP/1.1 {status}\r\n{header}Content-Length: {length}\r\nConnection: close\r\n\r\n"));
        }
    }

    private static async Task<string> ReadRequestAsync(NetworkStream stream)
    {
        var request = new StringBuilder();
        byte[] buffer = new byte[4096];
        while (!request.ToString().Contains("\r\n\r\n", StringComparison.Ordinal))
        {
            int count = await stream.ReadAsync(buffer);
            if (count == 0) break;
            request.Append(Encoding.ASCII.GetString(buffer, 0, count));
        }

        return request.ToString();
    }

    // A proxy is asked for the whole address.
    [GeneratedRegex(@"^GET \S*/(\S*) HTTP")]
    private static partial Regex Name();

    [GeneratedRegex(@"^Range: bytes=(\d+)-", RegexOptions.Multiline | RegexOptions.IgnoreCase)]
    private static partial Regex Range();
}

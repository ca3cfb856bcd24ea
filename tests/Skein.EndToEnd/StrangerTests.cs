using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Text;

namespace Skein.EndToEnd;

/// <summary>Clients that do not belong to a running job, at every port that its processes listen at.</summary>
public sealed class StrangerTests : IDisposable
{
    private const long Mebibyte = 1 << 20;
    private const long Gibibyte = 1 << 30;

    // The handshake's 10 s, and what a busy machine adds.
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(25);

    private readonly string directory = Directory.CreateTempSubdirectory("skein-strangers-").FullName;

    public void Dispose() => Directory.Delete(directory, recursive: true);

    [Theory]
    [InlineData("tcp")]
    [InlineData("shm")]
    public async Task Noise_and_silence_are_cut_off_and_harm_neither_memory_nor_result(string transport)
    {
        var end = Path.Combine(directory, "end");
        await using var job = SkeinProcess.Start(
            [("SKEIN_TRANSPORT", transport)],
            "launch", "-n", "2", "--", "dotnet", Path.Combine(AppContext.BaseDirectory, "Skein.TestWorker.dll"), "all-reduce-until", end);
        await job.WaitForLinesAsync(2, line => line.EndsWith("running", StringComparison.Ordinal));
        int[] ranks = [.. job.Descendants.Where(id => SkeinProcess.Variable(id, "RANK") is not null)];
        Assert.Equal(2, ranks.Length);
        int store = int.Parse(SkeinProcess.Variable(ranks[0], "MASTER_PORT")!, CultureInfo.InvariantCulture);
        Assert.Contains(store, ProcessSockets.Listening(job.Id));
        Assert.All(ranks, rank => Assert.NotEmpty(ProcessSockets.Listening(rank)));

        await Task.WhenAll(((int[])[job.Id, .. ranks]).Select(AttackAsync));
        await File.WriteAllTextAsync(end, "");
        Assert.Equal(0, await job.ExitAsync());
        Assert.Equal(["[0] checked", "[1] checked"], job.Output.Where(line => line.EndsWith("checked", StringComparison.Ordinal)).Order());
        Assert.Empty(job.Descendants);
    }

    [Fact]
    public async Task Many_strangers_leave_no_memory_behind_in_a_rank()
    {
        const int Warming = 5_000, Flood = 15_000;
        var end = Path.Combine(directory, "end");
        await using var job = SkeinProcess.Start(
            [("SKEIN_TRANSPORT", "shm")],
            "launch", "-n", "2", "--", "dotnet", Path.Combine(AppContext.BaseDirectory, "Skein.TestWorker.dll"), "all-reduce-until", end);
        await job.WaitForLinesAsync(2, line => line.EndsWith("running", StringComparison.Ordinal));
        int rank = job.Worker(1);
        int port = ProcessSockets.Listening(rank)[0];
        await FloodAsync(port, Warming);
        long before = Memory(rank, "VmRSS:");
        await FloodAsync(port, Flood);
        long grown = Memory(rank, "VmRSS:") - before;
        await File.WriteAllTextAsync(end, "", TestContext.Current.CancellationToken);
        Assert.Equal(0, await job.ExitAsync());
        Assert.InRange(grown, -Gibibyte, 24 * Mebibyte);
    }

    /// <summary>Connections that say something wrong, some dozens at a time, each to its end.</summary>
    private static Task FloodAsync(int port, int connections) => Parallel.ForAsync(
        0, connections, new ParallelOptions { MaxDegreeOfParallelism = 32 }, async (_, cancellationToken) =>
        {
            using Socket stranger = await ConnectAsync(port);
            try
            {
                await stranger.SendAsync(new byte[128], cancellationToken);
                while (await stranger.ReceiveAsync(new byte[128], cancellationToken) > 0)
                {
                }
            }
            catch (SocketException)
            {
                // Cut off.
            }
        });

    private static async Task AttackAsync(int process)
    {
        long before = PeakMemory(process);
        foreach (int port in ProcessSockets.Listening(process))
        {
            using Socket silent = await ConnectAsync(port);
            Assert.InRange(await SendNoiseAsync(port, start: ""), 0, 64 * Mebibyte);
            Assert.InRange(await SendNoiseAsync(port, start: "SKN1"), 0, 64 * Mebibyte);
            await ReadToEndAsync(silent);
        }

        Assert.InRange(PeakMemory(process) - before, 0, 64 * Mebibyte);
    }

    private static async Task<Socket> ConnectAsync(int port)
    {
        var socket = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        await socket.ConnectAsync(IPAddress.Loopback, port);
        return socket;
    }

    /// <summary>Sends up to a gibibyte that begins with <paramref name="start"/>, for as long as the other side lets it.</summary>
    /// <returns>How many bytes went out; those that only filled the buffers of the two sockets included.</returns>
    private static async Task<long> SendNoiseAsync(int port, string start)
    {
        var noise = new byte[1 << 16];
        new Random(3).NextBytes(noise);
        Encoding.ASCII.GetBytes(start, noise);
        using Socket stranger = await ConnectAsync(port);
        using var limit = new CancellationTokenSource(Patience);
        long sent = 0;
        try
        {
            while (sent < Gibibyte) sent += await stranger.SendAsync(noise, limit.Token);
        }
        catch (SocketException)
        {
            // Cut off.
        }

        return sent;
    }

    /// <summary>Reads until the other side closes the connection.</summary>
    private static async Task ReadToEndAsync(Socket socket)
    {
        using var limit = new CancellationTokenSource(Patience);
        await using var stream = new NetworkStream(socket);
        await stream.CopyToAsync(Stream.Null, limit.Token);
    }

    /// <summary>The most that was ever resident, in bytes.</summary>
    private static long PeakMemory(int id) => Memory(id, "VmHWM:");

    private static long Memory(int id, string field)
    {
        var line = File.ReadLines($"/proc/{id}/status").Single(line => line.StartsWith(field, StringComparison.Ordinal));
        return long.Parse(line.Split(' ', StringSplitOptions.RemoveEmptyEntries)[1], CultureInfo.InvariantCulture) * 1024;
    }
}

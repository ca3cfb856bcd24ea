using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using Skein.Collectives.Rendezvous;

namespace Skein.EndToEnd;

/// <summary>Launchers that are frozen, interrupted or late, and logs that cannot be written.</summary>
public sealed class LauncherEdgeTests : IDisposable
{
    private const int Quit = 3;
    private const int Continue = 18;
    private const int Stop = 19;

    private static readonly TimeSpan Soon = TimeSpan.FromSeconds(30);
    private static readonly string Worker = Path.Combine(AppContext.BaseDirectory, "Skein.TestWorker.dll");

    private readonly string directory = Directory.CreateTempSubdirectory("skein-edges-").FullName;
    private readonly int port = SkeinProcess.FreePort();

    public void Dispose() => Directory.Delete(directory, recursive: true);

    [Fact]
    public async Task An_interrupt_ends_a_node_within_seconds_while_the_launcher_of_node_0_is_frozen()
    {
        var (first, second) = await TwoNodesAsync(timeout: 300);
        await using (first)
        await using (second)
        {
            first.Signal(Stop);
            var clock = Stopwatch.StartNew();
            second.Signal(SkeinProcess.Interrupt);
            Assert.Equal(130, await second.ExitAsync(Soon));
            Assert.InRange(clock.Elapsed, TimeSpan.Zero, TimeSpan.FromSeconds(10));
            Assert.Empty(second.Descendants);
        }
    }

    [Fact]
    public async Task A_frozen_launcher_of_node_0_is_named_within_a_bound_that_follows_from_the_timeout()
    {
        var (first, second) = await TwoNodesAsync(timeout: 6);
        await using (first)
        await using (second)
        {
            first.Signal(Stop);
            Assert.Equal(1, await second.ExitAsync(Soon));
            Assert.Contains(second.Errors, line => line.StartsWith($"skein: lost the launcher of node 0 at 127.0.0.1:{port}: its store has not answered for 6 s", StringComparison.Ordinal));
            Assert.Empty(second.Descendants);
        }
    }

    [Fact]
    public async Task A_launcher_that_is_frozen_for_a_moment_ends_nothing()
    {
        var (first, second) = await TwoNodesAsync(timeout: 30);
        await using (first)
        await using (second)
        {
            first.Signal(Stop);
            // Longer than the beats and the answers take.
            await Task.Delay(TimeSpan.FromSeconds(3), TestContext.Current.CancellationToken);
            first.Signal(Continue);
            await File.WriteAllTextAsync(Path.Combine(directory, "end"), "", TestContext.Current.CancellationToken);
            Assert.Equal((0, 0), (await first.ExitAsync(Soon), await second.ExitAsync(Soon)));
        }
    }

    [Fact]
    public async Task A_node_that_hears_late_of_the_end_of_a_successful_job_ends_well()
    {
        await using var first = Node("127.0.0.1", 0, 30, $"while [ ! -e {directory}/end ]; do sleep 0.05; done");
        await using var second = Node("127.0.0.1", 1, 30, "echo ready");
        await second.WaitForLinesAsync(1, line => line.Contains("ready", StringComparison.Ordinal));
        await Task.Delay(TimeSpan.FromSeconds(1), TestContext.Current.CancellationToken);
        second.Signal(Stop);
        await File.WriteAllTextAsync(Path.Combine(directory, "end"), "", TestContext.Current.CancellationToken);
        // Longer than the question of the second node, which is under way, is kept: it has to ask again.
        await Task.Delay(TimeSpan.FromSeconds(3), TestContext.Current.CancellationToken);
        second.Signal(Continue);
        Assert.Equal((0, 0), (await second.ExitAsync(Soon), await first.ExitAsync(Soon)));
        Assert.Empty(first.Errors.Concat(second.Errors));
    }

    [Fact]
    public async Task A_log_on_a_full_disk_costs_one_line_and_not_the_job()
    {
        // Of several nodes: a launcher of one clears the folder first.
        const string Script = "seq 100000; echo last";
        File.CreateSymbolicLink(Path.Combine(directory, "rank-0.log"), "/dev/full");
        await using var first = Node("127.0.0.1", 0, 30, Script, "--run-dir", directory);
        await using var second = Node("127.0.0.1", 1, 30, Script, "--run-dir", directory);
        Assert.Equal((0, 0), (await first.ExitAsync(), await second.ExitAsync()));
        Assert.Contains("[0] last", first.Output);
        Assert.Contains("[1] last", second.Output);
        Assert.Empty(second.Errors);
        var line = Assert.Single(first.Errors);
        Assert.StartsWith("skein: the log of [0] ends here: No space left on device", line, StringComparison.Ordinal);
        Assert.Equal(100_001, File.ReadLines(Path.Combine(directory, "rank-1.log")).Count());
    }

    [Theory]
    [InlineData("::1", "[::1]")]
    [InlineData("localhost", "localhost")]
    public async Task Nodes_meet_at_an_address_of_either_version_and_at_a_name(string host, string written)
    {
        Assert.SkipUnless(host != "::1" || Socket.OSSupportsIPv6, "needs IPv6");
        await using var second = Node(written, 1, 30, $"exec dotnet {Worker} all-reduce-until {directory}/end");
        await using var first = Node(written, 0, 30, $"exec dotnet {Worker} all-reduce-until {directory}/end");
        await first.WaitForLinesAsync(1, line => line.EndsWith("running", StringComparison.Ordinal));
        Assert.Contains(port, ProcessSockets.Listening(first.Id));
        Assert.All(ProcessSockets.ListeningAddresses(first.Id), address => Assert.True(IPAddress.IsLoopback(address), $"{address}"));
        await File.WriteAllTextAsync(Path.Combine(directory, "end"), "", TestContext.Current.CancellationToken);
        Assert.Equal((0, 0), (await first.ExitAsync(Soon), await second.ExitAsync(Soon)));
    }

    [Fact]
    public async Task The_store_of_several_nodes_listens_at_one_address_only()
    {
        var here = await OwnAddressAsync();
        await using var first = Node($"{here}", 0, 30, "echo ready; sleep 600");
        await using var second = Node($"{here}", 1, 30, "echo ready $MASTER_ADDR; sleep 600");
        await first.WaitForLinesAsync(1, line => line.Contains("ready", StringComparison.Ordinal));
        await second.WaitForLinesAsync(1, line => line == $"[1] ready {here}");
        Assert.Equal([here], ProcessSockets.ListeningAddresses(first.Id));
    }

    [Fact]
    public async Task A_host_name_that_means_loopback_on_its_own_host_is_not_published_to_the_others()
    {
        Namespaces.SkipUnlessAllowed();
        var here = await OwnAddressAsync();
        var hosts = Path.Combine(directory, "hosts");
        await File.WriteAllTextAsync(hosts, "127.0.0.1 localhost\n127.0.1.1 debian-like\n", TestContext.Current.CancellationToken);
        await using var first = SkeinProcess.StartProgram(
            "unshare", Variables(30), "-m", "sh", "-c", "mount --bind $0 /etc/hosts && exec dotnet \"$@\"", hosts, SkeinProcess.Program,
            "launch", "-n", "1", "--nodes", "2", "--node-rank", "0", "--rendezvous", $"debian-like:{port}", "--",
            "dotnet", Worker, "all-reduce-until", $"{directory}/end");
        await using var second = Node($"{here}", 1, 30, $"exec dotnet {Worker} all-reduce-until {directory}/end");
        await second.WaitForLinesAsync(1, line => line.EndsWith("running", StringComparison.Ordinal));
        Assert.Equal([here], ProcessSockets.ListeningAddresses(first.Id));
        await File.WriteAllTextAsync(Path.Combine(directory, "end"), "", TestContext.Current.CancellationToken);
        Assert.Equal((0, 0), (await first.ExitAsync(Soon), await second.ExitAsync(Soon)));
    }

    [Fact]
    public async Task SIGQUIT_ends_neither_the_launcher_nor_programs_that_have_not_joined()
    {
        await using var job = SkeinProcess.Start(
            "launch", "-n", "2", "--", "sh", "-c", $"echo ready; while [ ! -e {directory}/end ]; do sleep 0.05; done; echo done");
        await job.WaitForLinesAsync(2, line => line.EndsWith("ready", StringComparison.Ordinal));
        job.Signal(Quit);
        job.Signal(Quit);
        await File.WriteAllTextAsync(Path.Combine(directory, "end"), "", TestContext.Current.CancellationToken);
        Assert.Equal(0, await job.ExitAsync(Soon));
        Assert.Equal(2, job.Output.Count(line => line.EndsWith("done", StringComparison.Ordinal)));
    }

    [Fact]
    public async Task SIGQUIT_to_the_launcher_lets_joined_ranks_dump_and_go_on_behind_a_shell()
    {
        await using var job = SkeinProcess.Start(
            "launch", "-n", "2", "--run-dir", directory, "--", "sh", "-c", $"dotnet {Worker} all-reduce-until {directory}/end; echo after");
        await job.WaitForLinesAsync(2, line => line.EndsWith("running", StringComparison.Ordinal));
        job.Signal(Quit);
        await job.WaitForLinesAsync(2, line => line.Contains("wrote its flight recorder to", StringComparison.Ordinal));
        await File.WriteAllTextAsync(Path.Combine(directory, "end"), "", TestContext.Current.CancellationToken);
        Assert.Equal(0, await job.ExitAsync(Soon));
        Assert.Equal(2, job.Output.Count(line => line.EndsWith("after", StringComparison.Ordinal)));
        Assert.All(Enumerable.Range(0, 2), rank => Assert.Contains(
            "AllReduce", File.ReadAllText(Path.Combine(directory, $"flight-recorder-rank-{rank}.json")), StringComparison.OrdinalIgnoreCase));
    }

    [Fact]
    public async Task SIGQUIT_ends_neither_a_coordinator_nor_a_server()
    {
        (string, string?)[] environment = Variables(30);
        await using var coordinator = SkeinProcess.Start(environment, "parameter-server", "coordinate", "--workers", "1");
        await coordinator.WaitForLinesAsync(1, line => line.StartsWith("coordinator at ", StringComparison.Ordinal));
        var address = coordinator.Errors[0]["coordinator at ".Length..];
        await using var server = SkeinProcess.Start(environment, "parameter-server", "serve", "--coordinator", address);
        // It has started, and waits: one connection to the coordinator.
        using var limit = new CancellationTokenSource(Soon);
        while (ProcessSockets.Connected(server.Id) == 0) await Task.Delay(20, limit.Token);
        foreach (var process in new[] { coordinator, server })
        {
            process.Signal(Quit);
            process.Signal(SkeinProcess.Interrupt);
        }

        // Who was ended by the first signal would end with 131.
        Assert.Equal((130, 130), (await coordinator.ExitAsync(Soon), await server.ExitAsync(Soon)));
    }

    [Fact]
    public async Task A_rank_that_ends_well_before_it_joins_is_named_at_once()
    {
        await using var job = SkeinProcess.Start(
            "launch", "-n", "2", "--", "sh", "-c", $"[ $RANK = 1 ] && exit 0; exec dotnet {Worker} check");
        var clock = Stopwatch.StartNew();
        Assert.Equal(1, await job.ExitAsync());
        Assert.InRange(clock.Elapsed, TimeSpan.Zero, Soon);
        Assert.Contains("[0] PeerLostException: rank 1 exited with code 0 before it joined the job", job.Errors);
    }

    private async Task<(SkeinProcess First, SkeinProcess Second)> TwoNodesAsync(int timeout)
    {
        var script = $"echo ready; while [ ! -e {directory}/end ]; do sleep 0.05; done";
        var first = Node("127.0.0.1", 0, timeout, script);
        var second = Node("127.0.0.1", 1, timeout, script);
        await first.WaitForLinesAsync(1, line => line.Contains("ready", StringComparison.Ordinal));
        await second.WaitForLinesAsync(1, line => line.Contains("ready", StringComparison.Ordinal));
        return (first, second);
    }

    private SkeinProcess Node(string host, int rank, int timeout, string script, params string[] options) => SkeinProcess.Start(
        Variables(timeout),
        ["launch", "-n", "1", "--nodes", "2", "--node-rank", $"{rank}", "--rendezvous", $"{host}:{port}", .. options, "--", "sh", "-c", script]);

    private static (string, string?)[] Variables(int timeout) =>
        [("SKEIN_JOB_SECRET", JobSecret.FromHex("0123456789abcdef0123456789abcdef").ToHex()), ("SKEIN_TIMEOUT_SECONDS", $"{timeout}")];

    /// <summary>This machine's address in a network; the test is skipped where there is none.</summary>
    private static async Task<IPAddress> OwnAddressAsync()
    {
        using var probe = new Socket(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp);
        try
        {
            await probe.ConnectAsync(IPAddress.Parse("198.51.100.1"), 1);
        }
        catch (SocketException)
        {
            Assert.Skip("needs a network interface besides loopback");
        }

        return ((IPEndPoint)probe.LocalEndPoint!).Address;
    }
}

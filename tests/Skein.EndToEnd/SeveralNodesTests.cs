using System.Net;
using System.Net.Sockets;

namespace Skein.EndToEnd;

/// <summary>Two launchers on this machine, as if on two.</summary>
public sealed class SeveralNodesTests
{
    private static readonly (string, string?)[] Secret = [("SKEIN_JOB_SECRET", SkeinProcess.Secret(1)), ("SKEIN_TIMEOUT_SECONDS", "30")];
    private static readonly TimeSpan Soon = TimeSpan.FromSeconds(30);

    private readonly int port = SkeinProcess.FreePort();

    [Fact]
    public async Task Ranks_are_numbered_across_nodes_and_share_the_jobs_name()
    {
        const string Say = "echo $RANK/$WORLD_SIZE local $LOCAL_RANK/$LOCAL_WORLD_SIZE at $MASTER_ADDR:$MASTER_PORT in $SKEIN_JOB_ID";
        await using var second = Node(1, 2, Say);
        await using var first = Node(0, 2, Say);
        Assert.Equal(0, await first.ExitAsync(Soon));
        Assert.Equal(0, await second.ExitAsync(Soon));
        var lines = first.Output.Concat(second.Output).Order().ToList();
        var job = lines[0].Split(' ')[^1];
        Assert.Equal(Enumerable.Range(0, 4).Select(rank => $"[{rank}] {rank}/4 local {rank % 2}/2 at 127.0.0.1:{port} in {job}"), lines);
    }

    [Fact]
    public async Task A_rank_that_fails_on_one_node_ends_the_other()
    {
        await using var first = Node(0, 1, "sleep 600");
        await using var second = Node(1, 1, "exit 5");
        Assert.Equal(5, await second.ExitAsync(Soon));
        Assert.Equal(5, await first.ExitAsync(Soon));
        Assert.Contains("skein: node 1: rank 1 exited with code 5", first.Errors);
        Assert.Empty(first.Descendants);
    }

    [Fact]
    public async Task The_loss_of_node_0_ends_the_others()
    {
        await using var first = Node(0, 1, "echo ready; sleep 600");
        await using var second = Node(1, 1, "echo ready; sleep 600");
        await first.WaitForLinesAsync(1, line => line.Contains("ready", StringComparison.Ordinal));
        await second.WaitForLinesAsync(1, line => line.Contains("ready", StringComparison.Ordinal));
        first.Signal(SkeinProcess.Kill);
        Assert.Equal(1, await second.ExitAsync(Soon));
        Assert.Contains(second.Errors, line => line.StartsWith($"skein: lost the launcher of node 0 at 127.0.0.1:{port}", StringComparison.Ordinal));
        await first.NothingLeftAsync(TimeSpan.FromSeconds(5));
        Assert.Empty(second.Descendants);
    }

    [Fact]
    public async Task Nodes_must_be_started_alike()
    {
        await using var first = Node(0, 1, "sleep 600");
        await using var second = Node(1, 3, "sleep 600");
        Assert.Equal(1, await second.ExitAsync(Soon));
        var error = Assert.Single(second.Errors);
        Assert.Equal(
            "skein: node 1 was started for 2 nodes of 3 processes, node 0 for 2 nodes of 1 processes: give the same --nodes and -n on every node", error);
    }

    [Fact]
    public async Task A_node_with_another_secret_is_refused()
    {
        await using var first = Node(0, 1, "sleep 600");
        await using var second = Node([("SKEIN_JOB_SECRET", SkeinProcess.Secret(2)), ("SKEIN_TIMEOUT_SECONDS", "30")], 1, 1, "true");
        Assert.Equal(1, await second.ExitAsync(Soon));
        Assert.Contains("secret", Assert.Single(second.Errors), StringComparison.Ordinal);
        await first.WaitForLinesAsync(1, line => line.StartsWith("skein: warning: ", StringComparison.Ordinal)
            && line.Contains("refused the connection from 127.0.0.1", StringComparison.Ordinal));
    }

    [Fact]
    public async Task A_job_of_several_nodes_needs_a_secret_from_outside()
    {
        await using var node = Node([], 0, 1, "true");
        Assert.Equal(1, await node.ExitAsync(Soon));
        Assert.StartsWith("skein: a job of 2 nodes needs the same secret on each: set SKEIN_JOB_SECRET", Assert.Single(node.Errors), StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_port_in_use_is_one_clear_error()
    {
        using var taken = new TcpListener(IPAddress.Loopback, 0);
        taken.Start();
        var number = ((IPEndPoint)taken.LocalEndpoint).Port;
        var (code, _, errors) = await SkeinProcess.RunAsync("launch", "-n", "1", "--rendezvous", $"127.0.0.1:{number}", "--", "true");
        Assert.Equal(1, code);
        Assert.StartsWith($"skein: port {number} at 127.0.0.1 is in use", Assert.Single(errors), StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_node_whose_first_never_comes_gives_up_after_the_timeout()
    {
        await using var node = Node([("SKEIN_JOB_SECRET", SkeinProcess.Secret(1)), ("SKEIN_TIMEOUT_SECONDS", "1")], 1, 1, "true");
        Assert.Equal(1, await node.ExitAsync(Soon));
        Assert.StartsWith($"skein: node 1 could not join the job at 127.0.0.1:{port}", Assert.Single(node.Errors), StringComparison.Ordinal);
    }

    private SkeinProcess Node(int rank, int processes, string script) => Node(Secret, rank, processes, script);

    private SkeinProcess Node((string, string?)[] environment, int rank, int processes, string script) => SkeinProcess.Start(
        environment,
        "launch", "-n", $"{processes}", "--nodes", "2", "--node-rank", $"{rank}", "--rendezvous", $"127.0.0.1:{port}", "--", "sh", "-c", script);
}

using System.Net;
using System.Net.Sockets;

namespace Skein.EndToEnd;

/// <summary>Ranks in the environment that torchrun gives them, while its own store holds their port.</summary>
public sealed class TorchrunTests : IDisposable
{
    private static readonly string Worker = Path.Combine(AppContext.BaseDirectory, "Skein.TestWorker.dll");

    private readonly string home = Directory.CreateTempSubdirectory("skein-torchrun-").FullName;
    private readonly TcpListener agent = new(IPAddress.Loopback, 0);

    public TorchrunTests() => agent.Start();

    public void Dispose()
    {
        agent.Dispose();
        Directory.Delete(home, recursive: true);
    }

    [Fact]
    public async Task Ranks_of_one_host_meet_without_a_secret_and_leave_nothing_readable_behind()
    {
        await using var second = Rank(1, 2, "check");
        await using var first = Rank(0, 2, "check");
        Assert.Equal(0, await first.ExitAsync());
        Assert.Equal(0, await second.ExitAsync());
        Assert.Equal(["joined", "checked shm"], first.Output);
        Assert.Empty(Directory.GetFiles(home, "*", SearchOption.AllDirectories));
    }

    [Fact]
    public async Task A_job_meets_past_the_file_of_one_that_was_killed()
    {
        await using (var killed = Rank(0, 2, "check"))
        {
            while (Directory.GetFiles(home, "????????????????????????????????", SearchOption.AllDirectories).Length == 0)
            {
                await Task.Delay(20, TestContext.Current.CancellationToken);
            }

            killed.Signal(SkeinProcess.Kill);
            await killed.ExitAsync();
        }

        await using var second = Rank(1, 2, "check");
        await using var first = Rank(0, 2, "check");
        Assert.Equal((0, 0), (await first.ExitAsync(), await second.ExitAsync()));
    }

    [Fact]
    public async Task Without_a_port_a_rank_says_so_at_once()
    {
        await using var rank = SkeinProcess.StartProgram(
            "dotnet", [("RANK", "1"), ("WORLD_SIZE", "2"), ("SKEIN_JOB_SECRET", SkeinProcess.Secret(7))], Worker, "check");
        Assert.Equal(1, await rank.ExitAsync(TimeSpan.FromSeconds(20)));
        Assert.StartsWith("RendezvousException: rank 1 of 2 has no MASTER_PORT: set MASTER_ADDR and MASTER_PORT", Assert.Single(rank.Errors), StringComparison.Ordinal);
    }

    private SkeinProcess Rank(int rank, int size, params string[] scenario) => SkeinProcess.StartProgram(
        "dotnet",
        [
            ("RANK", $"{rank}"), ("WORLD_SIZE", $"{size}"), ("LOCAL_RANK", $"{rank}"), ("LOCAL_WORLD_SIZE", $"{size}"), ("MASTER_ADDR", "localhost"),
            ("MASTER_PORT", $"{((IPEndPoint)agent.LocalEndpoint).Port}"), ("TORCHELASTIC_USE_AGENT_STORE", "True"), ("TORCHELASTIC_RUN_ID", "none"),
            ("TORCHELASTIC_RESTART_COUNT", "0"), ("SKEIN_TIMEOUT_SECONDS", "60"), ("XDG_DATA_HOME", home),
        ],
        [Worker, .. scenario]);
}

using System.Text.Json;

namespace Skein.EndToEnd;

/// <summary>Jobs that a real Slurm starts: a cluster of two nodes for each test, in namespaces of its own.</summary>
public sealed class SlurmTests : IDisposable
{
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(100);

    private readonly string directory = Directory.CreateTempSubdirectory("skein-slurm-").FullName;

    public void Dispose() => Directory.Delete(directory, recursive: true);

    [Fact]
    public async Task Two_nodes_train_what_two_workers_of_one_host_train()
    {
        var here = await TrainAsync(SkeinProcess.Start([("OMP_NUM_THREADS", "1")], "train", "digits", "--workers", "2", "--max-steps", "5", "--json", "--run-dir", Path.Combine(directory, "here")));
        var there = await TrainAsync(Cluster([], "srun", "-N2", "-n2", "dotnet", SkeinProcess.Program, "train", "digits", "--strategy", "ddp",
            "--max-steps", "5", "--json", "--run-dir", Path.Combine(directory, "there")));
        Assert.Equal(here, there);
    }

    [Fact]
    public async Task Ranks_find_rank_0_on_whatever_node_it_was_placed()
    {
        await File.WriteAllTextAsync(Path.Combine(directory, "nodes"), "n2\nn1\n", TestContext.Current.CancellationToken);
        await using var job = Cluster(
            [("SLURM_HOSTFILE", Path.Combine(directory, "nodes"))],
            "srun", "-n2", "--distribution=arbitrary", "dotnet", Path.Combine(AppContext.BaseDirectory, "Skein.TestWorker.dll"), "check");
        Assert.Equal(0, await job.ExitAsync(Limit));
        Assert.Equal(2, job.Output.Count(line => line == "joined"));
    }

    [Fact]
    public async Task A_node_name_that_does_not_resolve_is_blamed_on_slurms_list()
    {
        await using var job = Cluster(
            [("KNOWN_NODES", "0")],
            "srun", "-N2", "-n2", "dotnet", Path.Combine(AppContext.BaseDirectory, "Skein.TestWorker.dll"), "check");
        Assert.Equal(1, await job.ExitAsync(Limit));
        Assert.Contains(job.Errors, line => line.StartsWith("RendezvousException: SLURM_STEP_NODELIST names 'n1', which does not resolve: ", StringComparison.Ordinal));
    }

    [Fact]
    public async Task A_killed_rank_is_named_and_ends_the_step()
    {
        await using var job = Cluster(
            [], "srun", "-N2", "-n2", "dotnet", Path.Combine(AppContext.BaseDirectory, "Skein.TestWorker.dll"), "all-reduce-forever", "1000");
        await job.WaitForLinesAsync(2, line => line == "running");
        int rank = job.Descendants.Single(id => SkeinProcess.Variable(id, "SLURM_PROCID") == "1" && SkeinProcess.CommandLine(id)[0].EndsWith("dotnet", StringComparison.Ordinal));
        SkeinProcess.Signal(rank, SkeinProcess.Kill);
        Assert.NotEqual(0, await job.ExitAsync(Limit));
        Assert.Contains(job.Errors, line => line.Contains("rank 1 was lost", StringComparison.Ordinal));
    }

    private SkeinProcess Cluster((string, string?)[] environment, params string[] command)
    {
        Namespaces.SkipUnlessAllowed();
        Assert.SkipUnless(
            new[] { "/usr/sbin/slurmctld", "/usr/sbin/slurmd", "/usr/sbin/munged" }.All(File.Exists),
            "needs a Slurm to start (Debian: apt-get install slurm-wlm munge)");
        return SkeinProcess.StartProgram(
            "unshare",
            [.. environment, ("OMP_NUM_THREADS", "1"), ("SKEIN_JOB_SECRET", SkeinProcess.Secret(3)), ("SKEIN_TIMEOUT_SECONDS", "60"), ("SKEIN_TRANSPORT", "tcp")],
            ["--mount", "--net", "--pid", "--fork", "--mount-proc", "sh", Path.Combine(AppContext.BaseDirectory, "slurm-cluster.sh"), directory, .. command]);
    }

    private static async Task<string> TrainAsync(SkeinProcess started)
    {
        await using var job = started;
        Assert.Equal(0, await job.ExitAsync(Limit));
        using var summary = JsonDocument.Parse(job.Output[^1]);
        return summary.RootElement.GetProperty("parameter_checksum").GetString()!;
    }
}

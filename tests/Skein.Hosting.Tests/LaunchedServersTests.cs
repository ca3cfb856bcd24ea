using System.Diagnostics;
using Skein.Hosting.ParameterServers;
using Skein.ParameterServer;

namespace Skein.Hosting.Tests;

public sealed class LaunchedServersTests
{
    private static readonly TimeSpan Soon = TimeSpan.FromSeconds(60);

    [Fact]
    public async Task A_server_that_ends_before_it_joins_ends_the_job_and_is_named()
    {
        LaunchOutcome outcome = await RunAsync(["sleep", "600"], "exit 3");
        Assert.Equal((1, null), (outcome.ExitCode, outcome.FailedRank));
        Assert.Matches(@"^server-0 \(process \d+ on .+\) exited with code 3 before it had joined the job; its log says why$", outcome.Failure);
    }

    [Fact]
    public async Task Ranks_that_end_well_without_having_joined_are_no_success()
    {
        LaunchOutcome outcome = await RunAsync(["true"], "sleep 600");
        Assert.Equal((1, null), (outcome.ExitCode, outcome.FailedRank));
        Assert.Matches(@"^worker \d \(process \d+ on .+\) exited with code 0 before it had joined the job: does its program join", outcome.Failure);
    }

    [Fact]
    public async Task Ranks_and_servers_find_the_coordinator_in_their_environment_and_where_to_listen()
    {
        // Fails, as nobody joins; what was said is in the logs.
        string directory = Directory.CreateTempSubdirectory("skein-launched-").FullName;
        await RunAsync(["sh", "-c", $"until [ -s {directory}/server-0.log ]; do sleep 0.05; done; echo $SKEIN_COORDINATOR"], "echo $SKEIN_COORDINATOR $0 $1; sleep 600", directory);
        string rank = Assert.Single(File.ReadAllLines(Path.Combine(directory, "rank-0.log"))), server = Assert.Single(File.ReadAllLines(Path.Combine(directory, "server-0.log")));
        Assert.Matches(@"^127\.0\.0\.1:\d+$", rank);
        Assert.Equal($"{rank} --listen 127.0.0.1", server);
        Directory.Delete(directory, recursive: true);
    }

    private static async Task<LaunchOutcome> RunAsync(string[] program, string server, string? directory = null)
    {
        long start = Stopwatch.GetTimestamp();
        LaunchOutcome outcome = await Launcher.RunAsync(new LaunchOptions
        {
            Program = program[0],
            Arguments = program[1..],
            ProcessesPerNode = 2,
            RunDirectory = directory,
            Output = LaunchOutput.None,
            Servers = new ServerLaunch
            {
                Settings = new JobSettings { Servers = 1, Workers = 2, TimeoutSeconds = 300 },
                Program = "sh",
                Arguments = ["-c", server],
            },
        });
        Assert.True(Stopwatch.GetElapsedTime(start) < Soon);
        return outcome;
    }
}

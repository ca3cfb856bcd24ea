using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Text.Json;
using System.Text.RegularExpressions;

namespace Skein.EndToEnd;

/// <summary>A user's program (samples/ParameterServers) with the servers that <c>skein launch --servers</c> starts for it.</summary>
public sealed partial class ParameterServerLaunchTests : IDisposable
{
    private static readonly string Sample = Path.Combine(AppContext.BaseDirectory, "ParameterServers.dll");
    private static readonly (string, string?) Secret = ("SKEIN_JOB_SECRET", SkeinProcess.Secret(7));
    private static readonly TimeSpan Soon = TimeSpan.FromSeconds(60);

    private readonly string directory = Directory.CreateTempSubdirectory("skein-launch-servers-").FullName;

    public void Dispose() => Directory.Delete(directory, recursive: true);

    [Fact]
    public async Task Two_workers_and_two_servers_equal_one_process()
    {
        Result alone = Assert.Single(await ResultsAsync(SkeinProcess.StartProgram("dotnet", [], Sample)));
        Assert.Equal((0, 1), (alone.Worker, alone.Workers));
        Assert.True(alone.Accuracy > 0.9, $"{alone}");

        Result[] workers = await ResultsAsync(Launch("-n", "2", "--servers", "2", "--consistency", "bsp", "--server-optimizer", "momentum"));
        AssertTrainedAlike(alone, workers);
    }

    [Fact]
    public async Task Two_launchers_share_the_servers_between_them_and_equal_one_process()
    {
        Result alone = Assert.Single(await ResultsAsync(SkeinProcess.StartProgram("dotnet", [], Sample)));

        // An address of this host that is not the default one: all have to listen there.
        string rendezvous = $"127.0.0.2:{FreePort()}";
        SkeinProcess first = Node(0), second = Node(1);
        Result[] workers = [.. await ResultsAsync(first), .. await ResultsAsync(second)];
        AssertTrainedAlike(alone, workers);
        Assert.Matches(@"^\[0\] coordinator 127\.0\.0\.2:\d+$", first.Output[0]);
        Assert.Equal(first.Output[0][4..], second.Output[0][4..]);
        Assert.Equal(["server-0.log", "server-2.log"], Logs(0));
        Assert.Equal(["server-1.log"], Logs(1));

        SkeinProcess Node(int node) => SkeinProcess.Start(
            [Secret],
            "launch", "-n", "1", "--nodes", "2", "--node-rank", $"{node}", "--rendezvous", rendezvous, "--run-dir", Folder(node),
            "--servers", "3", "--server-optimizer", "momentum",
            "--", "sh", "-c", $"echo coordinator $SKEIN_COORDINATOR; exec dotnet {Sample}");

        string Folder(int node) => Path.Combine(directory, $"{node}");

        IEnumerable<string?> Logs(int node) => Directory.GetFiles(Folder(node), "server-*.log").Select(Path.GetFileName).Order();
    }

    [Fact]
    public async Task A_program_that_disposes_its_strategy_ends_the_job_well()
    {
        await using var coordinator = SkeinProcess.Start([Secret], "parameter-server", "coordinate", "--workers", "2", "--server-optimizer", "momentum");
        const string Start = "coordinator at ";
        await coordinator.WaitForLinesAsync(1, line => line.StartsWith(Start, StringComparison.Ordinal));
        string address = coordinator.Errors.Single(line => line.StartsWith(Start, StringComparison.Ordinal))[Start.Length..];
        await using var server = SkeinProcess.Start([Secret], "parameter-server", "serve", "--coordinator", address);
        await using SkeinProcess first = Worker(0), second = Worker(1);
        foreach (SkeinProcess part in new[] { first, second, server, coordinator })
        {
            Assert.True(await part.ExitAsync() == 0, string.Join('\n', part.Errors));
            Assert.DoesNotContain(part.Errors, line => line.StartsWith("skein:", StringComparison.Ordinal));
        }

        SkeinProcess Worker(int rank) => SkeinProcess.StartProgram(
            "dotnet", [Secret, ("SKEIN_COORDINATOR", address), ("RANK", $"{rank}"), ("WORLD_SIZE", "2")], Sample);
    }

    [Fact]
    public async Task An_optimizer_that_is_not_the_jobs_is_refused_with_the_line_that_works()
    {
        await using SkeinProcess job = Launch("-n", "1", "--servers", "1", "--server-optimizer", "adam");
        Assert.NotEqual(0, await job.ExitAsync());
        Assert.Contains(job.Errors, line => line.Contains(
            "the Trainer's optimizer is momentum, but the servers of this job run adam: start the job with --server-optimizer momentum", StringComparison.Ordinal));
    }

    [Fact]
    public async Task A_rank_that_ends_before_it_joins_is_named_and_the_others_do_not_wait()
    {
        await using SkeinProcess job = SkeinProcess.Start(
            "launch", "-n", "2", "--servers", "1", "--server-optimizer", "momentum", "--", "sh", "-c", $"[ $RANK = 1 ] || exec dotnet {Sample}");
        Assert.NotEqual(0, await job.ExitAsync(Soon));
        Assert.Contains(job.Errors, line => Gone().IsMatch(line));
    }

    [Fact]
    public async Task A_balanced_job_goes_on_without_a_rank_that_died_before_it_joined()
    {
        await using SkeinProcess job = SkeinProcess.Start(
            "launch", "-n", "2", "--servers", "1", "--consistency", "async", "--balance", "--server-optimizer", "momentum",
            "--", "sh", "-c", $"[ $RANK = 0 ] || exit 7; exec dotnet {Sample}");
        Assert.True(await job.ExitAsync(Soon) == 0, string.Join('\n', job.Errors));
        Assert.Contains("skein: rank 1 exited with code 7", job.Errors);
        Result left = Parse(Assert.Single(job.Output));
        Assert.Equal((0, 1), (left.Worker, left.Workers));
        Assert.True(left.Accuracy > 0.9, $"{left}");
    }

    [Theory]
    [InlineData("--consistency needs --servers S: without it the job has no parameter servers", "--consistency", "bsp")]
    [InlineData("--servers is 0: give a whole number from 1", "--servers", "0")]
    [InlineData("--balance needs --consistency async: with bsp no worker may take more steps than another", "--servers", "1", "--balance")]
    [InlineData(
        "--tolerate-losses cannot go with --servers: give --consistency async --balance, with which workers may be lost", "--servers", "1", "--tolerate-losses")]
    [InlineData("unknown server optimizer 'adamw'; choose sgd, momentum, adam, amsgrad or adagrad", "--servers", "1", "--server-optimizer", "adamw")]
    [InlineData("'beta1=0.5' is no setting of the server optimizer sgd: give weight-decay=VALUE", "--servers", "1", "--server-optimizer", "sgd,beta1=0.5")]
    [InlineData("the server optimizer's beta1 is '2': give a number from 0 to below 1", "--servers", "1", "--server-optimizer", "adam,beta1=2")]
    public async Task What_does_not_fit_is_one_line(string message, params string[] options)
    {
        var (code, _, errors) = await SkeinProcess.RunAsync(["launch", "-n", "1", .. options, "--", "true"]);
        Assert.Equal(2, code);
        Assert.Equal([$"skein: {message}"], errors);
    }

    [Fact]
    public void A_console_program_that_trains_needs_the_plain_runtime_only()
    {
        foreach (string sample in new[] { "QuickStart", "ParameterServers" })
        {
            using JsonDocument config = JsonDocument.Parse(File.ReadAllText(Path.Combine(AppContext.BaseDirectory, $"{sample}.runtimeconfig.json")));
            JsonElement options = config.RootElement.GetProperty("runtimeOptions");
            Assert.False(options.TryGetProperty("frameworks", out _));
            Assert.Equal("Microsoft.NETCore.App", options.GetProperty("framework").GetProperty("name").GetString());
        }
    }

    [Theory]
    [InlineData("Skein.Collectives")]
    [InlineData("Skein.ParameterServer")]
    [InlineData("Skein.Training")]
    [InlineData("Skein.Workloads")]
    public void What_trains_refers_to_nothing_that_serves(string assembly) => Assert.DoesNotContain(
        System.Reflection.Assembly.Load(assembly).GetReferencedAssemblies(),
        static reference => reference.Name!.StartsWith("Microsoft.AspNetCore", StringComparison.Ordinal)
            || reference.Name.StartsWith("Grpc.AspNetCore", StringComparison.Ordinal));

    private static SkeinProcess Launch(params string[] options) => SkeinProcess.Start(["launch", .. options, "--", "dotnet", Sample]);

    // bsp sums in another order than one process; the numbers are those of the same training.
    private static void AssertTrainedAlike(Result alone, Result[] workers)
    {
        Assert.Equal([(0, 2), (1, 2)], workers.OrderBy(static worker => worker.Worker).Select(static worker => (worker.Worker, worker.Workers)));
        foreach (Result worker in workers)
        {
            Assert.Equal(alone.Loss, worker.Loss, 1e-4);
            Assert.Equal(alone.Accuracy, worker.Accuracy, 1e-3);
        }
    }

    private static async Task<Result[]> ResultsAsync(SkeinProcess process)
    {
        await using (process)
        {
            Assert.True(await process.ExitAsync() == 0, string.Join('\n', process.Errors));
            return [.. process.Output.Where(static line => Line().IsMatch(line)).Select(Parse)];
        }
    }

    private static Result Parse(string line)
    {
        Match match = Line().Match(line);
        Assert.True(match.Success, line);
        return new Result(
            int.Parse(match.Groups["worker"].Value, CultureInfo.InvariantCulture), int.Parse(match.Groups["workers"].Value, CultureInfo.InvariantCulture),
            double.Parse(match.Groups["loss"].Value, CultureInfo.InvariantCulture), double.Parse(match.Groups["accuracy"].Value, CultureInfo.InvariantCulture));
    }

    private static int FreePort()
    {
        using var listener = new TcpListener(IPAddress.Loopback, 0);
        listener.Start();
        return ((IPEndPoint)listener.LocalEndpoint).Port;
    }

    [GeneratedRegex(@"worker (?<worker>\d+) of (?<workers>\d+): loss (?<loss>[0-9.]+), accuracy (?<accuracy>[0-9.]+)$")]
    private static partial Regex Line();

    [GeneratedRegex(@"worker 1 \(process \d+ on .+\) exited with code 0 before it had joined the job: does its program join")]
    private static partial Regex Gone();

    private sealed record Result(int Worker, int Workers, double Loss, double Accuracy);
}

using Skein.Collectives.Rendezvous;
using Skein.Hosting.ParameterServers;
using Skein.ParameterServer.Control;

namespace Skein.ParameterServer.Tests.Control;

/// <summary>A coordinator and members of its job, all in this process on real sockets.</summary>
internal sealed class Members : IAsyncDisposable
{
    /// <summary>For waits that should not be long.</summary>
    public static readonly TimeSpan Limit = TimeSpan.FromSeconds(30);

    private readonly List<CoordinatorClient> clients = [];

    private Members(CoordinatorHost coordinator, JobSecret secret)
    {
        Coordinator = coordinator;
        Secret = secret;
    }

    public CoordinatorHost Coordinator { get; }

    public JobSecret Secret { get; }

    public static async Task<Members> StartAsync(Func<CoordinatorOptions, CoordinatorOptions> configure)
    {
        var secret = JobSecret.Generate();
        CoordinatorOptions options = configure(new CoordinatorOptions { Timeout = Limit });
        return new Members(await CoordinatorHost.StartAsync(options, secret), secret);
    }

    public Task<CoordinatorClient> ServerAsync(int dataPort) =>
        JoinAsync(new ServerRegistration("127.0.0.1", dataPort, 9) { ProcessId = 1000 + dataPort, HostName = "here" });

    public Task<CoordinatorClient> WorkerAsync(int rank) =>
        JoinAsync(new WorkerRegistration(rank) { ProcessId = 2000 + rank, HostName = "here" });

    /// <summary>What the launcher of a process on "here" says when it ends.</summary>
    public Task DepartAsync(Departure departure) => CoordinatorClient.ReportAsync(
        "127.0.0.1", Coordinator.Endpoint.Port, Secret, departure with { HostName = "here" }, Limit);

    public async ValueTask DisposeAsync()
    {
        foreach (CoordinatorClient client in clients) await client.DisposeAsync();
        await Coordinator.DisposeAsync();
    }

    private async Task<CoordinatorClient> JoinAsync(Registration registration)
    {
        CoordinatorClient client = await CoordinatorClient.JoinAsync(
            "127.0.0.1", Coordinator.Endpoint.Port, Secret, registration, Limit);
        clients.Add(client);
        return client;
    }
}

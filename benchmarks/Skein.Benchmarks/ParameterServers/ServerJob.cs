using System.Diagnostics;
using Skein.Collectives.Rendezvous;
using Skein.Hosting.ParameterServers;
using Skein.ParameterServer;
using Skein.ParameterServer.Control;

namespace Skein.Benchmarks.ParameterServers;

/// <summary>A job whose servers are processes of their own, and whose coordinator and workers are in this process.</summary>
internal sealed class ServerJob : IAsyncDisposable
{
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(60);

    private readonly JobSecret secret;
    private readonly JobSettings settings;
    private readonly CoordinatorHost coordinator;
    private readonly List<Process> servers = [];
    private readonly List<CoordinatorClient> members = [];
    private readonly List<ParameterServerClient> clients = [];

    private ServerJob(JobSecret secret, JobSettings settings, CoordinatorHost coordinator)
    {
        this.secret = secret;
        this.settings = settings;
        this.coordinator = coordinator;
    }

    public static async Task<ServerJob> StartAsync(string skein, JobSettings settings, CancellationToken cancellationToken)
    {
        var secret = JobSecret.Generate();
        CoordinatorHost coordinator = await CoordinatorHost.StartAsync(
            new CoordinatorOptions { Servers = settings.Servers, Workers = settings.Workers, Settings = settings.ToJson() },
            secret, cancellationToken: cancellationToken);
        var job = new ServerJob(secret, settings, coordinator);
        for (int server = 0; server < settings.Servers; server++)
        {
            job.servers.Add(ChildProcess.Start(
                skein, ["parameter-server", "serve", "--coordinator", coordinator.Endpoint.ToString()], environment: ("SKEIN_JOB_SECRET", secret.ToHex())));
        }

        return job;
    }

    /// <summary>Joins as the next worker, and opens the model.</summary>
    public async Task<ParameterServerClient> OpenAsync(int length, TableSpec[] tables, CancellationToken cancellationToken)
    {
        CoordinatorClient member = await CoordinatorClient.JoinAsync(
            coordinator.Endpoint.Address.ToString(), coordinator.Endpoint.Port, secret, new WorkerRegistration(members.Count), Limit, cancellationToken);
        members.Add(member);
        ParameterServerClient client = ParameterServerClient.Open(member, secret, [new ParameterSpec("values", length)], tables, settings.Servers, Limit);
        clients.Add(client);
        return client;
    }

    public async ValueTask DisposeAsync()
    {
        foreach (ParameterServerClient client in clients) client.Dispose();
        foreach (CoordinatorClient member in members)
        {
            await member.LeaveAsync();
            await member.DisposeAsync();
        }

        // A finished job's servers end by themselves; one that failed to start is not waited for.
        foreach (Process server in servers)
        {
            if (!server.WaitForExit(Limit / 10)) server.Kill(entireProcessTree: true);
            server.Dispose();
        }

        await coordinator.DisposeAsync();
    }
}

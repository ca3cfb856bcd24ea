using Skein.Collectives.Rendezvous;
using Skein.Hosting.ParameterServers;
using Skein.ParameterServer;
using Skein.ParameterServer.Control;
using Skein.Training.ParameterServers;

namespace Skein.Training.Tests;

/// <summary>A coordinator and its shards, in this process.</summary>
internal sealed class TestServers(JobSecret secret, CoordinatorHost coordinator) : IAsyncDisposable
{
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(60);

    private readonly CoordinatorHost coordinator = coordinator;
    private readonly List<ShardHost> shards = [];

    public static async Task<TestServers> StartAsync(JobSettings settings)
    {
        var secret = JobSecret.Generate();
        var servers = new TestServers(secret, await CoordinatorHost.StartAsync(new CoordinatorOptions
        {
            Servers = settings.Servers,
            Workers = settings.Workers,
            Elastic = settings.Elastic,
            Settings = settings.ToJson(),
            Timeout = Limit,
        }, secret));
        for (int i = 0; i < settings.Servers; i++)
        {
            servers.shards.Add(await ShardHost.StartAsync(new ParameterShardOptions
            {
                CoordinatorHost = "127.0.0.1",
                CoordinatorPort = servers.coordinator.Endpoint.Port,
                Secret = secret,
                Timeout = Limit,
            }));
        }

        return servers;
    }

    /// <summary>Why the job failed, or null, once it has ended.</summary>
    public Task<string?> Finished => coordinator.Finished;

    public ParameterServerOptions Options(int rank) =>
        new() { CoordinatorHost = "127.0.0.1", CoordinatorPort = coordinator.Endpoint.Port, Secret = secret, Rank = rank };

    public async ValueTask DisposeAsync()
    {
        foreach (ShardHost shard in shards) await shard.DisposeAsync();
        await coordinator.DisposeAsync();
    }
}

using System.Runtime.InteropServices;
using Skein.Collectives.Rendezvous;
using Skein.Hosting.ParameterServers;
using Skein.ParameterServer.Control;

namespace Skein.ParameterServer.Tests;

/// <summary>A whole job in this process: coordinator, shards and workers on real sockets.</summary>
internal sealed class ServerJob : IAsyncDisposable
{
    public static readonly TimeSpan Limit = TimeSpan.FromSeconds(30);

    private readonly List<JobWorker> workers = [];

    private ServerJob(JobSettings settings, JobSecret secret, CoordinatorHost coordinator)
    {
        Settings = settings;
        Secret = secret;
        Coordinator = coordinator;
    }

    public JobSettings Settings { get; }

    public JobSecret Secret { get; }

    public CoordinatorHost Coordinator { get; }

    /// <summary>In the order of registration: primaries first.</summary>
    public List<ShardHost> Shards { get; } = [];

    public static async Task<ServerJob> StartAsync(JobSettings settings, int replicas = 1)
    {
        var secret = JobSecret.Generate();
        var coordinator = await CoordinatorHost.StartAsync(new CoordinatorOptions
        {
            Servers = settings.Servers,
            Replicas = replicas,
            Workers = settings.Workers,
            Elastic = settings.Elastic,
            Settings = settings.ToJson(),
            Timeout = Limit,
        }, secret);
        var job = new ServerJob(settings, secret, coordinator);
        for (int i = 0; i < settings.Servers * replicas; i++)
        {
            job.Shards.Add(await ShardHost.StartAsync(new ParameterShardOptions
            {
                CoordinatorHost = "127.0.0.1",
                CoordinatorPort = coordinator.Endpoint.Port,
                Secret = secret,
                Timeout = Limit,
            }));
        }

        return job;
    }

    public async Task<JobWorker> WorkerAsync(int rank, float[] initial, params TableSpec[] tables)
    {
        CoordinatorClient coordinator = await CoordinatorClient.JoinAsync("127.0.0.1", Coordinator.Endpoint.Port, Secret, new WorkerRegistration(rank), Limit);
        var worker = new JobWorker(coordinator, Secret, Settings, initial, tables);
        workers.Add(worker);
        return worker;
    }

    public async Task<IReadOnlyList<ShardStatistics>> StatisticsAsync()
    {
        var statistics = new List<ShardStatistics>();
        foreach (ShardView shard in workers[0].Coordinator.View.Shards)
        {
            using var control = new ShardControlClient(shard.Primary.Host, shard.Primary.ControlPort, Secret, Limit);
            statistics.Add(await control.GetStatisticsAsync(CancellationToken.None));
        }

        return statistics;
    }

    public async ValueTask DisposeAsync()
    {
        foreach (JobWorker worker in workers) await worker.DisposeAsync();
        foreach (ShardHost shard in Shards) await shard.DisposeAsync();
        await Coordinator.DisposeAsync();
    }
}

/// <summary>A worker with one parameter, 'w', and perhaps tables.</summary>
internal sealed class JobWorker : IAsyncDisposable
{
    private GCHandle values;
    private GCHandle gradients;

    public JobWorker(CoordinatorClient coordinator, JobSecret secret, JobSettings settings, float[] initial, TableSpec[] tables)
    {
        Coordinator = coordinator;
        Values = [.. initial];
        Gradients = new float[initial.Length];
        values = GCHandle.Alloc(Values, GCHandleType.Pinned);
        gradients = GCHandle.Alloc(Gradients, GCHandleType.Pinned);
        Client = ParameterServerClient.Open(coordinator, secret, [new ParameterSpec("w", initial.Length)], tables, settings.Servers, TimeSpan.FromSeconds(settings.TimeoutSeconds));
        Client.Initialize(ValueMemory);
    }

    public CoordinatorClient Coordinator { get; }

    public ParameterServerClient Client { get; }

    public float[] Values { get; }

    public float[] Gradients { get; }

    public ParameterMemory[] ValueMemory => [new ParameterMemory(values.AddrOfPinnedObject(), Values.Length)];

    public PullAnswer Pull(long clock) => Client.Pull(clock, ValueMemory);

    public void Push(long clock, float[] gradient, double rate = 1, (int, int)? work = null, params RowGradients[] rows) => Client.Push(Prepare(clock, gradient, rate, 0, work, rows));

    public PullAnswer PushPull(long clock, float[] gradient, double rate = 1, double loss = 0) => Client.PushPull(Prepare(clock, gradient, rate, loss, null, []), ValueMemory);

    public async ValueTask DisposeAsync()
    {
        Client.Dispose();
        await Coordinator.LeaveAsync();
        await Coordinator.DisposeAsync();
        values.Free();
        gradients.Free();
    }

    private StepPush Prepare(long clock, float[] gradient, double rate, double loss, (int, int)? work, RowGradients[] rows)
    {
        gradient.CopyTo(Gradients, 0);
        return new StepPush
        {
            Clock = clock,
            LearningRate = rate,
            Loss = loss,
            Work = work,
            Gradients = [new ParameterMemory(gradients.AddrOfPinnedObject(), Gradients.Length)],
            Rows = rows,
        };
    }
}

using Skein.ParameterServer;
using Skein.ParameterServer.Control;
using Skein.Training.Data;
using Skein.Training.Embeddings;
using Skein.Training.ParameterServers;
using static TorchSharp.torch;

namespace Skein.Training.Tests;

/// <summary>Training with parameter servers on real sockets, against one process.</summary>
public sealed class ParameterServerTests
{
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(60);

    private sealed record Outcome(IReadOnlyList<float> Losses, float[] Parameters, EvaluationReport Evaluation, IReadOnlyList<ShardStatistics> Shards);

    [Theory]
    [InlineData(1, 1)]
    [InlineData(2, 2)]
    [InlineData(3, 2)]
    public async Task Bulk_synchronous_equals_one_process(int workers, int servers)
    {
        // Batches of 24 with a tail of 4: with 3 workers the tail gives 2, 1 and 1 samples.
        Outcome expected = await TrainAsync(new SingleProcess(), Mlp);
        Outcome[] actual = await RunAsync(Settings(servers, workers, "bsp"), Mlp);
        foreach (Outcome worker in actual)
        {
            Models.AssertClose(expected.Losses, worker.Losses, 1e-4);
            Assert.Equal(actual[0].Parameters, worker.Parameters);
            Assert.Equal(expected.Evaluation.Loss, worker.Evaluation.Loss, 1e-4);
            Assert.Equal(100, worker.Evaluation.Samples);
        }
    }

    [Fact]
    public async Task One_asynchronous_worker_equals_one_process()
    {
        Outcome expected = await TrainAsync(new SingleProcess(), Mlp);
        Outcome actual = Assert.Single(await RunAsync(Settings(2, 1, "async"), Mlp));
        Models.AssertClose(expected.Losses, actual.Losses, 1e-4);
        Models.AssertClose(expected.Parameters, actual.Parameters, 1e-3, 1e-5);
        Assert.All(actual.Shards, shard => Assert.Equal([50], shard.UpdateStaleness));
    }

    [Theory]
    [InlineData("bsp")]
    [InlineData("async")]
    public async Task Ranks_that_push_as_one_host_equal_one_process_and_the_servers_see_hosts(string consistency)
    {
        Outcome expected = await TrainAsync(new SingleProcess(), Mlp);
        int hosts = consistency == "bsp" ? 2 : 1;
        JobSettings settings = Settings(2, hosts, consistency);
        await using TestServers servers = await TestServers.StartAsync(settings);
        Outcome[] actual = await RankThreads.Run(4, async world => await TrainAsync(await HostAggregatedServers.JoinAsync(world, 4 / hosts, servers.Options(0)), Mlp));
        foreach (Outcome rank in actual)
        {
            Models.AssertClose(expected.Losses, rank.Losses, 1e-4);
            Assert.Equal(actual[0].Parameters, rank.Parameters);
            Models.AssertClose(expected.Parameters, rank.Parameters, 1e-3, 1e-5);
        }

        Assert.All(actual[0].Shards, shard => Assert.Equal(50 * hosts, shard.Pushes));
    }

    [Theory]
    [InlineData(1)]
    [InlineData(3)]
    public async Task Rows_on_the_servers_train_like_rows_in_the_model(int workers)
    {
        // Users repeat within a batch, so that rows have several gradients in one step.
        Outcome expected = await TrainAsync(new SingleProcess(), static () => new Biases(LocalEmbedding.Create), Ratings, Error);
        Outcome[] actual = await RunAsync(Settings(2, workers, "bsp") with { Optimizer = ServerOptimizerOptions.Parse("sgd") }, static () => new Biases(static spec => new RemoteEmbedding(spec)), Ratings, Error);
        foreach (Outcome worker in actual)
        {
            Models.AssertClose(expected.Losses, worker.Losses, 1e-4);
            Assert.Equal(expected.Evaluation.Loss, worker.Evaluation.Loss, 1e-4);
        }

        Assert.Equal(15 + 15, actual[0].Shards.Sum(static shard => shard.StoredRows));
    }

    [Fact]
    public async Task Elastic_workers_take_every_chunk_of_every_epoch_once()
    {
        Outcome[] actual = await RunAsync(Settings(2, 2, "async") with { Elastic = true }, Mlp, steps: null);

        // 100 samples in chunks of 24 / 2, twice.
        Assert.All(actual[0].Shards, shard => Assert.Equal(2 * 9, shard.Updates));
        Assert.Equal(actual[0].Parameters, actual[1].Parameters);
        Assert.Equal(2 * 9, actual.Sum(static worker => worker.Losses.Count));
    }

    [Fact]
    public async Task Who_waits_for_a_worker_hears_why_it_could_not_begin()
    {
        await using TestServers servers = await TestServers.StartAsync(Settings(2, 2, "async"));
        using ParameterServerStrategy fails = await ParameterServerStrategy.JoinAsync(servers.Options(1)), waits = await ParameterServerStrategy.JoinAsync(servers.Options(0));
        using nn.Module<Tensor, Tensor> single = nn.Linear(2, 1, hasBias: false), model = Mlp();
        var waiting = Task.Run(() => waits.Attach(model));
        Exception cause = Assert.Throws<ArgumentException>(() => fails.Attach(single));
        Assert.Equal("2 servers are more than the 1 parameters need, and server 1 would hold nothing; use fewer servers", cause.Message);
        Exception heard = await Assert.ThrowsAsync<ParameterServerException>(() => waiting);
        Assert.Equal($"worker 1: {cause.Message}", heard.Message);
    }

    private static JobSettings Settings(int servers, int workers, string consistency) => new()
    {
        Servers = servers,
        Workers = workers,
        Consistency = consistency,
        Optimizer = ServerOptimizerOptions.Parse("momentum") with { WeightDecay = 0.01 },
        TimeoutSeconds = 60,
    };

    private static nn.Module<Tensor, Tensor> Mlp() => Models.Mlp();

    private static InMemoryDataset Ratings() => Models.Seeded(5, static () => new InMemoryDataset(randint(0, 15, [100, 2]).add_(tensor(new long[] { 5, 0 })), rand(100)));

    private static Tensor Error(Tensor output, Tensor labels) => nn.functional.mse_loss(output, labels);

    private static async Task<Outcome[]> RunAsync(
        JobSettings settings, Func<nn.Module<Tensor, Tensor>> make, Func<InMemoryDataset>? data = null, Func<Tensor, Tensor, Tensor>? loss = null, long? steps = 50)
    {
        await using TestServers servers = await TestServers.StartAsync(settings);
        return await Task.WhenAll(Enumerable.Range(0, settings.Workers).Select(rank => Task.Run(async () =>
            await TrainAsync(await ParameterServerStrategy.JoinAsync(servers.Options(rank)), make, data, loss, steps))));
    }

    private static async Task<Outcome> TrainAsync(
        Strategy strategy, Func<nn.Module<Tensor, Tensor>> make, Func<InMemoryDataset>? makeData = null, Func<Tensor, Tensor, Tensor>? loss = null, long? steps = 50)
    {
        using (strategy)
        {
            using InMemoryDataset data = makeData is null ? Models.Data(count: 100) : makeData();
            using nn.Module<Tensor, Tensor> model = Models.Seeded(1, make);
            using var optimizer = makeData is null
                ? optim.SGD(model.parameters(), 0.1, momentum: 0.9, weight_decay: 0.01)
                : optim.SGD(model.parameters(), 0.1);
            var trainer = new Trainer(model, optimizer, loss ?? Models.CrossEntropy) { Strategy = strategy, BatchSize = 24, MaxSteps = steps, Seed = 3 };
            TrainingReport report = await trainer.FitAsync(data, epochs: steps is null ? 2 : 1000);
            EvaluationReport evaluation = await trainer.EvaluateAsync(data);
            ParameterServerStrategy? servers = strategy as ParameterServerStrategy ?? (strategy as HostAggregatedServers)?.Leader;
            IReadOnlyList<ShardStatistics> shards = servers is null ? [] : await servers.GetStatisticsAsync();
            return new Outcome(report.LossHistory, Models.Parameters(model), evaluation, shards);
        }
    }

    /// <summary>The biases of a rating: one of its user, one of its item.</summary>
    private sealed class Biases : nn.Module<Tensor, Tensor>
    {
        private readonly nn.Module<Tensor, Tensor> users;
        private readonly nn.Module<Tensor, Tensor> items;

        public Biases(Func<EmbeddingSpec, nn.Module<Tensor, Tensor>> embedding)
            : base(nameof(Biases))
        {
            users = embedding(new("users", 20, 1, 0));
            items = embedding(new("items", 15, 1, 0));
            RegisterComponents();
        }

        public override Tensor forward(Tensor input) => (users.call(input.select(1, 0)) + items.call(input.select(1, 1))).squeeze(1);
    }
}

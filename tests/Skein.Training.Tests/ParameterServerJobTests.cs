using Skein.ParameterServer;
using Skein.Training.Data;
using Skein.Training.Embeddings;
using Skein.Training.ParameterServers;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.Tests;

/// <summary>How a worker's program and the job fit together: its optimizer, its fits, and how it ends.</summary>
public sealed class ParameterServerJobTests
{
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(60);

    [Fact]
    public async Task Disposing_leaves_the_job_which_ends_well_with_the_last_worker()
    {
        await using TestServers servers = await TestServers.StartAsync(Settings(2, "async"));
        ParameterServerStrategy first = await JoinAsync(servers, 0), second = await JoinAsync(servers, 1);
        await Task.WhenAll(FitAsync(first), FitAsync(second)).WaitAsync(Limit);
        await second.DisposeAsync();
        Assert.False(servers.Finished.IsCompleted);
        first.Dispose();
        Assert.Null(await servers.Finished.WaitAsync(Limit));
    }

    [Fact]
    public async Task A_worker_whose_fit_fails_in_its_own_code_is_lost_when_it_is_disposed()
    {
        await using TestServers servers = await TestServers.StartAsync(Settings(2));
        ParameterServerStrategy first = await JoinAsync(servers, 0), second = await JoinAsync(servers, 1);
        Task waits = FitAsync(first);
        int steps = 0;
        await Assert.ThrowsAsync<InvalidTimeZoneException>(() => FitAsync(
            second, loss: (output, labels) => ++steps < 3 ? Models.CrossEntropy(output, labels) : throw new InvalidTimeZoneException()));
        second.Dispose();
        Assert.StartsWith("worker 1 (process ", await servers.Finished.WaitAsync(Limit), StringComparison.Ordinal);
        Assert.Contains("was lost", (await Assert.ThrowsAsync<ParameterServerException>(() => waits)).Message);
        first.Dispose();
    }

    [Fact]
    public async Task A_worker_whose_fit_was_cancelled_is_lost_when_it_is_disposed()
    {
        await using TestServers servers = await TestServers.StartAsync(Settings(1));
        ParameterServerStrategy worker = await JoinAsync(servers, 0);
        using var cancellation = new CancellationTokenSource();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => FitAsync(worker, step: _ => cancellation.Cancel(), token: cancellation.Token));
        worker.Dispose();
        Assert.Contains("was lost", await servers.Finished.WaitAsync(Limit));
    }

    [Fact]
    public async Task A_sum_that_a_worker_has_left_before_names_it()
    {
        await using TestServers servers = await TestServers.StartAsync(Settings(2));
        ParameterServerStrategy first = await JoinAsync(servers, 0), second = await JoinAsync(servers, 1);
        await Task.WhenAll(FitAsync(first), FitAsync(second)).WaitAsync(Limit);
        second.Dispose();
        using InMemoryDataset data = Models.Data(count: 100);
        using nn.Module<Tensor, Tensor> model = Models.Mlp();
        var sums = new double[1];
        Assert.Equal(
            "worker(s) 1 had left the job when worker 0 asked for a sum over all: every worker has to make the same calls",
            Assert.Throws<ParameterServerException>(() => first.Sum(sums)).Message);
        first.Dispose();
    }

    [Theory]
    [InlineData("bsp", 2)]
    [InlineData("async", 1)]
    public async Task Two_fits_equal_those_of_one_process(string consistency, int workers)
    {
        (IReadOnlyList<float> losses, float[] parameters) = await TwiceAsync(new SingleProcess());
        await using TestServers servers = await TestServers.StartAsync(Settings(workers, consistency));
        var results = await Task.WhenAll(Enumerable.Range(0, workers).Select(rank => Task.Run(async () =>
        {
            using ParameterServerStrategy strategy = await JoinAsync(servers, rank);
            return await TwiceAsync(strategy);
        })));
        foreach (var result in results)
        {
            Models.AssertClose(losses, result.Losses, 1e-4);
            Models.AssertClose(parameters, result.Parameters, 1e-3, 1e-5);
        }

        Assert.Null(await servers.Finished.WaitAsync(Limit));
    }

    [Fact]
    public async Task The_second_fit_of_elastic_workers_goes_over_all_samples_too()
    {
        await using TestServers servers = await TestServers.StartAsync(Settings(2, "async") with { Elastic = true });
        long[] updates = await Task.WhenAll(Enumerable.Range(0, 2).Select(rank => Task.Run(async () =>
        {
            using ParameterServerStrategy strategy = await JoinAsync(servers, rank);
            await TwiceAsync(strategy);
            return (await strategy.GetStatisticsAsync())[0].Updates;
        })));

        // 100 samples in chunks of 24 / 2, in two fits of one epoch.
        Assert.Equal([2 * 9, 2 * 9], updates);
    }

    public static TheoryData<string, string, Func<IEnumerable<Parameter>, optim.Optimizer>> Refused() => new()
    {
        { "sgd", "is adam, but the servers of this job run sgd: start the job with --server-optimizer adam, or give the Trainer sgd", p => optim.Adam(p, 0.1) },
        { "sgd", "is adam, but", p => optim.AdamW(p, 0.1) },
        { "adam", "is adam with a decoupled weight decay of 0.01 (AdamW), which", p => optim.AdamW(p, 0.1, weight_decay: 0.01) },
        { "momentum", "is sgd, but", p => optim.SGD(p, 0.1) },
        { "momentum", "is momentum,momentum=0.8, but", p => optim.SGD(p, 0.1, momentum: 0.8) },
        { "momentum", "with Nesterov's momentum, which", p => optim.SGD(p, 0.1, momentum: 0.9, nesterov: true) },
        { "momentum", "with dampening 0.5, which", p => optim.SGD(p, 0.1, momentum: 0.9, dampening: 0.5) },
        { "adam", "is amsgrad, but", p => optim.Adam(p, 0.1, amsgrad: true) },
        { "adam,beta1=0.8", "is adam,beta1=0.7,epsilon=1E-06,weight-decay=0.01, but the servers of this job run adam,beta1=0.8", p => optim.Adam(p, 0.1, 0.7, 0.999, 1e-6, 0.01) },
        { "adagrad", "whose learning rate decays by 0.1, which", p => optim.Adagrad(p, 0.1, lr_decay: 0.1) },
        { "sgd", "RMSProp", p => optim.RMSProp(p, 0.1) },
    };

    [Theory]
    [MemberData(nameof(Refused))]
    public async Task An_optimizer_that_is_not_the_jobs_is_refused_before_anything_is_pushed(
        string job, string words, Func<IEnumerable<Parameter>, optim.Optimizer> make)
    {
        await using TestServers servers = await TestServers.StartAsync(Settings(1) with { Optimizer = ServerOptimizerOptions.Parse(job) });
        using ParameterServerStrategy strategy = await JoinAsync(servers, 0);
        InvalidOperationException error = await Assert.ThrowsAsync<InvalidOperationException>(() => FitAsync(strategy, make: make));
        Assert.Contains(words, error.Message, StringComparison.OrdinalIgnoreCase);
        Assert.Equal($"worker 0: {error.Message}", await servers.Finished.WaitAsync(Limit));
    }

    [Theory]
    [InlineData("sgd,weight-decay=0.01")]
    [InlineData("momentum,momentum=0.8")]
    [InlineData("adam")]
    [InlineData("amsgrad,beta1=0.8,beta2=0.99,epsilon=1E-06,weight-decay=0.02")]
    [InlineData("adagrad,epsilon=1E-08")]
    public async Task The_jobs_own_optimizer_gives_one_processs_losses(string job)
    {
        ServerOptimizerOptions options = ServerOptimizerOptions.Parse(job);
        Assert.Equal(job, options.ToString());
        IReadOnlyList<float> expected = await FitAsync(new SingleProcess(), make: parameters => JobOptimizer.Create(options, parameters, 0.02));
        await using TestServers servers = await TestServers.StartAsync(Settings(1) with { Optimizer = options });
        using ParameterServerStrategy strategy = await JoinAsync(servers, 0);
        Models.AssertClose(expected, await FitAsync(strategy, make: parameters => JobOptimizer.Create(options, parameters, 0.02)), 1e-4);
    }

    [Fact]
    public async Task Parameter_groups_of_different_rates_are_refused()
    {
        await using TestServers servers = await TestServers.StartAsync(Settings(1) with { Optimizer = ServerOptimizerOptions.Parse("sgd") });
        using ParameterServerStrategy strategy = await JoinAsync(servers, 0);
        InvalidOperationException error = await Assert.ThrowsAsync<InvalidOperationException>(() => FitAsync(strategy, make: static parameters =>
        {
            Parameter[] all = [.. parameters];
            return optim.SGD([new SGD.ParamGroup(all[..1], new SGD.Options { LearningRate = 0.1 }), new SGD.ParamGroup(all[1..], new SGD.Options { LearningRate = 0.2 })], 0.1);
        }));
        Assert.StartsWith("the parameter groups of the Trainer's optimizer have learning rates of 0.1 and 0.2, but", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_parameter_that_the_optimizer_leaves_out_is_named()
    {
        await using TestServers servers = await TestServers.StartAsync(Settings(1) with { Optimizer = ServerOptimizerOptions.Parse("sgd") });
        using ParameterServerStrategy strategy = await JoinAsync(servers, 0);
        InvalidOperationException error = await Assert.ThrowsAsync<InvalidOperationException>(
            () => FitAsync(strategy, make: static parameters => optim.SGD(parameters.Skip(1), 0.1)));
        Assert.Matches("^the Trainer's optimizer leaves out the parameter '.+weight', which the servers would update", error.Message);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Frozen_parameters_and_buffers_are_those_of_worker_0_and_stay(bool elastic)
    {
        JobSettings settings = Settings(2, "async") with { Elastic = elastic };
        await using TestServers servers = await TestServers.StartAsync(settings);
        float[][] states = await Task.WhenAll(Enumerable.Range(0, 2).Select(rank => Task.Run(async () =>
        {
            using ParameterServerStrategy strategy = await JoinAsync(servers, rank);
            using Frozen model = Models.Seeded(1 + rank, () => new Frozen(1 + rank));
            using var optimizer = optim.SGD(model.parameters(), 0.1, momentum: 0.9);
            using InMemoryDataset data = Models.Data(count: 100);
            var trainer = new Trainer(model, optimizer, Models.CrossEntropy) { Strategy = strategy, BatchSize = 24, Seed = 3 };
            await trainer.FitAsync(data);
            await trainer.EvaluateAsync(data);
            return model.State();
        })));
        using Frozen first = Models.Seeded(1, static () => new Frozen(1));
        Assert.Equal(first.State(), states[0]);
        Assert.Equal(states[0], states[1]);
    }

    [Fact]
    public async Task Two_tables_of_one_name_are_refused()
    {
        await using TestServers servers = await TestServers.StartAsync(Settings(1));
        using ParameterServerStrategy strategy = await JoinAsync(servers, 0);
        using nn.Module<Tensor, Tensor> model = nn.Sequential(
            ("a", new RemoteEmbedding(new EmbeddingSpec("words", 4, 2, 0))), ("b", new RemoteEmbedding(new EmbeddingSpec("words", 4, 2, 0))));
        Assert.StartsWith("two tables of the model are named 'words'", Assert.Throws<ArgumentException>(() => strategy.Attach(model)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_table_takes_indices_of_any_whole_type_and_none_at_all()
    {
        await using TestServers servers = await TestServers.StartAsync(Settings(1));
        using ParameterServerStrategy strategy = await JoinAsync(servers, 0);
        using var table = new RemoteEmbedding(new EmbeddingSpec("words", 4, 2, 1));
        using nn.Module<Tensor, Tensor> model = nn.Sequential(("table", table));
        strategy.Attach(model);
        using Tensor wide = table.call(tensor(new long[] { 3, 1 })), narrow = table.call(tensor(new int[] { 3, 1 })), none = table.call(zeros([0, 5], ScalarType.Int64));
        Assert.Equal(wide.data<float>().ToArray(), narrow.data<float>().ToArray());
        Assert.Equal([0L, 5, 2], none.shape);
        Assert.Contains("got indices of type Float32", Assert.Throws<ArgumentException>(() => table.call(ones(2))).Message);
    }

    private static JobSettings Settings(int workers, string consistency = "bsp") => new()
    {
        Servers = 1,
        Workers = workers,
        Consistency = consistency,
        Optimizer = ServerOptimizerOptions.Parse("momentum"),
        TimeoutSeconds = 60,
    };

    private static Task<ParameterServerStrategy> JoinAsync(TestServers servers, int rank) => ParameterServerStrategy.JoinAsync(servers.Options(rank));

    private static async Task<IReadOnlyList<float>> FitAsync(
        Strategy strategy, Func<Tensor, Tensor, Tensor>? loss = null, Func<IEnumerable<Parameter>, optim.Optimizer>? make = null,
        Action<StepInfo>? step = null, CancellationToken token = default)
    {
        using InMemoryDataset data = Models.Data(count: 100);
        using nn.Module<Tensor, Tensor> model = Models.Seeded(1, static () => Models.Mlp());
        using optim.Optimizer optimizer = (make ?? (static parameters => optim.SGD(parameters, 0.1, momentum: 0.9)))(model.parameters());
        var trainer = new Trainer(model, optimizer, loss ?? Models.CrossEntropy) { Strategy = strategy, BatchSize = 24, Seed = 3, StepCompleted = step };
        return (await trainer.FitAsync(data, epochs: 2, token)).LossHistory;
    }

    /// <summary>A frozen layer and constant buffers, one of whole numbers, under a layer that trains.</summary>
    private sealed class Frozen : nn.Module<Tensor, Tensor>
    {
        private readonly Linear body;
        private readonly Linear head;
        private readonly Tensor scale;
        private readonly Tensor version;

        public Frozen(int seed)
            : base(nameof(Frozen))
        {
            body = nn.Linear(20, 8);
            head = nn.Linear(8, 5);
            scale = rand(8);
            version = tensor(new long[] { seed, 1L << 60 });
            register_buffer("scale", scale);
            register_buffer("version", version);
            RegisterComponents();
            foreach (Parameter parameter in body.parameters()) parameter.requires_grad = false;
        }

        public override Tensor forward(Tensor input) => head.call(body.call(input) * scale);

        public float[] State() =>
        [
            .. body.weight.data<float>(), .. body.bias!.data<float>(), .. scale.data<float>(), .. version.data<long>().Select(static value => (float)value),
        ];
    }

    private static async Task<(IReadOnlyList<float> Losses, float[] Parameters)> TwiceAsync(Strategy strategy)
    {
        using InMemoryDataset data = Models.Data(count: 100);
        using nn.Module<Tensor, Tensor> model = Models.Seeded(1, static () => Models.Mlp());
        using var optimizer = optim.SGD(model.parameters(), 0.1, momentum: 0.9);
        var trainer = new Trainer(model, optimizer, Models.CrossEntropy) { Strategy = strategy, BatchSize = 24, Seed = 3 };
        IReadOnlyList<float> first = (await trainer.FitAsync(data)).LossHistory;
        await trainer.EvaluateAsync(data);
        return ([.. first, .. (await trainer.FitAsync(data)).LossHistory], Models.Parameters(model));
    }
}

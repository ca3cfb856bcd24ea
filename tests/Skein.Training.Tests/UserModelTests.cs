using Skein.Training.Data;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.Tests;

/// <summary>What users' models and losses have besides layers with dense gradients.</summary>
public class UserModelTests
{
    [Fact]
    public void A_loss_with_parameters_of_its_own_is_refused_by_their_name()
    {
        using nn.Module<Tensor, Tensor> model = Models.Mlp();
        using var loss = new Tempered();
        var error = Assert.Throws<ArgumentException>(() => new Trainer(model, optim.SGD([.. model.parameters(), .. loss.parameters()], 0.1), loss));
        Assert.Contains("'temperature'", error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task An_optimizer_with_a_parameter_that_is_not_the_models_is_refused(bool createdByTrainer)
    {
        using InMemoryDataset data = Models.Data();
        using nn.Module<Tensor, Tensor> model = Models.Mlp();
        using var loss = new Tempered();
        Trainer trainer = createdByTrainer
            ? new Trainer(model, parameters => optim.SGD([.. parameters, .. loss.parameters()], 0.1), (output, labels) => loss.call(output, labels))
            : new Trainer(model, optim.SGD([.. model.parameters(), .. loss.parameters()], 0.1), (output, labels) => loss.call(output, labels));
        var error = await Assert.ThrowsAsync<InvalidOperationException>(() => trainer.FitAsync(data));
        Assert.Contains("a parameter [3] that is none of those", error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("ddp")]
    [InlineData("overlap")]
    [InlineData("zero1")]
    [InlineData("zero2")]
    [InlineData("zero3")]
    public async Task Sparse_gradients_are_those_of_one_process(string kind)
    {
        Strategies.Training training = new() { Model = static () => new Bag(), Data = Bags, Optimizer = static parameters => optim.SGD(parameters, 0.5) };
        Strategies.AssertSame(await training.Run(new SingleProcess()), await training.RunRanks(kind));
    }

    [Theory]
    [InlineData("single", ScalarType.BFloat16)]
    [InlineData("single", ScalarType.Float16)]
    [InlineData("ddp", ScalarType.BFloat16)]
    [InlineData("overlap", ScalarType.BFloat16)]
    [InlineData("zero1", ScalarType.BFloat16)]
    [InlineData("zero2", ScalarType.BFloat16)]
    [InlineData("zero3", ScalarType.BFloat16)]
    [InlineData("pipeline", ScalarType.BFloat16)]
    public async Task Many_micro_batches_gradients_add_up_in_single_precision(string kind, ScalarType type)
    {
        await RankThreads.Run(kind == "single" ? 1 : 2, async group =>
        {
            using var data = new InMemoryDataset(ones([1024, 1]), zeros([1024]));
            using nn.Module<Tensor, Tensor> model = nn.Sequential(("first", nn.Linear(1, 1)), ("second", nn.Linear(1, 1)));
            using (no_grad())
            {
                foreach (Parameter parameter in model.parameters()) parameter.fill_(0.5);
            }

            model.to(type);
            using Strategy strategy = kind == "single" ? new SingleProcess() : Strategies.Create(kind, group);
            var trainer = new Trainer(model, static parameters => optim.SGD(parameters, 1), static (output, _) => output.mean()) { Strategy = strategy, BatchSize = 1024, GradientAccumulation = 512 };
            await trainer.FitAsync(data);
            // y = a2 (a1 x + b1) + b2: the gradients are a2 x, a2, a1 x + b1 and 1.
            double[] expected = [0, 0, -0.5, -0.5];
            Assert.Equal(expected, strategy.FullParameters(model).Select(static entry => (double)entry.Value.to(ScalarType.Float32).reshape(-1)[0].item<float>()));
            trainer.Optimizer!.Dispose();
            return 0;
        });
    }

    [Theory]
    [InlineData("single")]
    [InlineData("ddp")]
    [InlineData("zero3")]
    [InlineData("pipeline")]
    [InlineData("local")]
    [InlineData("gossip")]
    public async Task A_model_without_anything_to_train_is_measured_and_not_fitted(string kind)
    {
        using InMemoryDataset all = Models.Data();
        using nn.Module<Tensor, Tensor> same = Models.Mlp();
        double expected = Models.CrossEntropy(same.call(all.Features), all.Labels).ToDouble();
        await RankThreads.Run(kind == "single" ? 1 : 2, async group =>
        {
            using InMemoryDataset data = Models.Data();
            using nn.Module<Tensor, Tensor> model = Models.Mlp();
            foreach (Parameter parameter in model.parameters()) parameter.requires_grad = false;
            using Strategy strategy = kind == "single" ? new SingleProcess() : Strategies.Create(kind, group);
            var trainer = new Trainer(model, static parameters => optim.SGD(parameters, 0.1), Models.CrossEntropy) { Strategy = strategy };
            Assert.Equal(expected, (await trainer.EvaluateAsync(data)).Loss, 1e-5);
            var error = await Assert.ThrowsAsync<InvalidOperationException>(() => trainer.FitAsync(data));
            Assert.Contains("no parameter that requires a gradient", error.Message, StringComparison.Ordinal);
            return 0;
        });
    }

    [Fact]
    public async Task One_rank_of_all_is_the_first()
    {
        bool[] pipeline = await RankThreads.Run(3, static group =>
        {
            using Strategy strategy = Strategies.Create("pipeline", group);
            return strategy.IsFirst;
        });
        bool[] copies = await RankThreads.Run(3, static group =>
        {
            using Strategy strategy = Strategies.Create("ddp", group);
            return strategy.IsFirst;
        });
        Assert.Equal([true, false, false], pipeline);
        Assert.Equal([true, false, false], copies);
    }

    private static InMemoryDataset Bags()
    {
        Tensor ids = Models.Seeded(5, static () => randint(0, 10, [32, 3], dtype: ScalarType.Int64));
        return new InMemoryDataset(ids, ids.sum(1) % 3);
    }

    private sealed class Bag : nn.Module<Tensor, Tensor>
    {
        private readonly Embedding embedding = nn.Embedding(10, 6, sparse: true);
        private readonly Linear head = nn.Linear(6, 3);

        public Bag()
            : base(nameof(Bag)) => RegisterComponents();

        public override Tensor forward(Tensor input) => head.call(embedding.call(input).mean([1]));
    }

    private sealed class Tempered : nn.Module<Tensor, Tensor, Tensor>
    {
        private readonly Parameter temperature = new(ones(3));

        public Tempered()
            : base(nameof(Tempered)) => RegisterComponents();

        public override Tensor forward(Tensor output, Tensor labels) => nn.functional.cross_entropy(output * temperature.mean(), labels);
    }
}

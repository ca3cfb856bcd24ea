using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.Tests;

public class FrozenParameterTests
{
    private static nn.Module<Tensor, Tensor> WithFrozenBackbone()
    {
        Linear entry = nn.Linear(20, 16), backbone = nn.Linear(16, 16);
        foreach (Parameter parameter in backbone.parameters()) parameter.requires_grad = false;
        Linear middle = nn.Linear(16, 16);
        middle.bias!.requires_grad = false;
        return nn.Sequential(("entry", entry), ("sigmoid", nn.Sigmoid()), ("backbone", backbone), ("tanh", nn.Tanh()), ("middle", middle), ("relu", nn.ReLU()), ("head", nn.Linear(16, 5)));
    }

    private static Strategies.Training Decaying => new()
    {
        Model = WithFrozenBackbone,
        Data = static () => Models.Data(count: 64),
        Optimizer = static parameters => optim.AdamW(parameters, 0.01, weight_decay: 0.1),
    };

    public static TheoryData<string> All => Strategies.Cases(Strategies.All);

    public static TheoryData<string> Exact => Strategies.Cases(Strategies.Exact);

    [Theory]
    [MemberData(nameof(All))]
    public async Task Frozen_parameters_stay_bitwise_what_they_were_however_the_optimizer_decays_weights(string kind)
    {
        using nn.Module<Tensor, Tensor> untouched = Models.Seeded(1, WithFrozenBackbone);
        foreach (Strategies.Outcome rank in await Decaying.RunRanks(kind))
        {
            foreach ((string name, Parameter parameter) in untouched.named_parameters().Where(static entry => !entry.parameter.requires_grad))
            {
                Assert.Equal(parameter.data<float>().ToArray(), rank.State[name]);
            }

            Assert.NotEqual(untouched.get_parameter("head.weight")!.data<float>().ToArray(), rank.State["head.weight"]);
        }
    }

    [Theory]
    [MemberData(nameof(Exact))]
    public async Task A_model_with_frozen_parameters_trains_as_in_one_process(string kind) =>
        Strategies.AssertSame(await Decaying.Run(new SingleProcess()), await Decaying.RunRanks(kind), 1e-4);

    [Theory]
    [MemberData(nameof(Exact))]
    public async Task What_is_unfrozen_between_two_fits_is_trained_from_then_on_with_the_state_of_the_others_kept(string kind)
    {
        Strategies.Training training = Unfreezing(static parameters => optim.SGD(parameters, 0.05, momentum: 0.9, weight_decay: 0.01));
        Strategies.AssertSame(await training.Run(new SingleProcess()), await training.RunRanks(kind), 1e-4);
    }

    [Fact]
    public async Task Alone_it_is_trained_as_by_an_optimizer_that_had_all_parameters_from_the_start()
    {
        Strategies.Outcome actual = await Unfreezing(static parameters => optim.SGD(parameters, 0.05, momentum: 0.9)).Run(new SingleProcess());

        using Data.InMemoryDataset data = Models.Data(count: 64);
        using nn.Module<Tensor, Tensor> model = Models.Seeded(1, WithFrozenBackbone);
        using var optimizer = optim.SGD(model.parameters(), 0.05, momentum: 0.9);
        var sampler = new Data.DistributedSampler(data.Count, 16, 0, 1);
        var losses = new List<float>();
        for (int epoch = 0; epoch < 4; epoch++)
        {
            if (epoch == 2) Unfreeze(model);
            sampler.SetEpoch(epoch);
            for (int i = 0; i < sampler.BatchesPerEpoch; i++)
            {
                using var scope = NewDisposeScope();
                Tensor indices = tensor(sampler.LocalIndices(i).ToArray());
                foreach (Parameter parameter in model.parameters()) parameter.grad = null;
                Tensor loss = Models.CrossEntropy(model.call(data.Features[indices]), data.Labels[indices]);
                loss.backward();
                optimizer.step();
                losses.Add(loss.ToSingle());
            }
        }

        Models.AssertClose(losses, actual.Losses, 1e-6, 1e-6);
        Models.AssertClose(model.get_parameter("backbone.weight")!.data<float>().ToArray(), actual.State["backbone.weight"], 1e-5, 1e-6);
    }

    [Theory]
    [InlineData("local")]
    [InlineData("gossip")]
    public async Task Ranks_that_train_by_themselves_average_what_was_unfrozen(string kind)
    {
        Strategies.Outcome[] ranks = await Unfreezing(static parameters => optim.SGD(parameters, 0.05)).RunRanks(kind);
        using nn.Module<Tensor, Tensor> untouched = Models.Seeded(1, WithFrozenBackbone);
        Assert.Equal(ranks[0].State["backbone.weight"], ranks[1].State["backbone.weight"]);
        Assert.NotEqual(untouched.get_parameter("backbone.weight")!.data<float>().ToArray(), ranks[0].State["backbone.weight"]);
    }

    [Theory]
    [InlineData("ddp")]
    [InlineData("zero3")]
    public async Task Ranks_that_freeze_other_parameters_get_an_error_that_names_one(string kind)
    {
        var error = await Assert.ThrowsAsync<AggregateException>(() => RankThreads.Run(2, group =>
        {
            using Strategy strategy = Strategies.Create(kind, group);
            using nn.Module<Tensor, Tensor> model = nn.Sequential(("first", nn.Linear(4, 4)), ("second", nn.Linear(4, 4)));
            model.get_parameter(group.Rank == 0 ? "first.weight" : "second.weight")!.requires_grad = false;
            strategy.Attach(model);
            return 0;
        }));
        Assert.All(error.InnerExceptions, static inner => Assert.Contains(
            "'first.weight' Float32[4, 4], frozen on rank 0, but 'first.weight' Float32[4, 4] on rank 1", inner.Message, StringComparison.Ordinal));
    }

    [Fact]
    public async Task A_gradient_of_before_it_was_frozen_is_not_applied_again()
    {
        using Data.InMemoryDataset data = Models.Data(count: 64);
        using nn.Module<Tensor, Tensor> model = Models.Mlp();
        using var optimizer = optim.SGD(model.parameters(), 0.1, momentum: 0.9);
        var trainer = new Trainer(model, optimizer, Models.CrossEntropy);
        await trainer.FitAsync(data);
        Parameter first = model.parameters().First();
        first.requires_grad = false;
        float[] frozen = first.data<float>().ToArray();
        await trainer.FitAsync(data, 2);
        Assert.Equal(frozen, first.data<float>().ToArray());
    }

    private static Strategies.Training Unfreezing(Func<IReadOnlyList<Parameter>, optim.Optimizer> optimizer) => new()
    {
        Model = WithFrozenBackbone,
        Data = static () => Models.Data(count: 64),
        Optimizer = optimizer,
        Epochs = 2,
        Fits = [static (_, _) => { }, static (model, _) => Unfreeze(model)],
    };

    private static void Unfreeze(nn.Module model)
    {
        foreach (Parameter parameter in model.parameters()) parameter.requires_grad = true;
    }
}

using Skein.Training.Data;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.Tests;

public class TiedParameterTests
{
    // TorchSharp's getter of an embedding's weight makes a new object at each call.
    private static nn.Module<Tensor, Tensor> Tied()
    {
        Embedding embedding = nn.Embedding(10, 6);
        Linear head = nn.Linear(6, 10, hasBias: false);
        head.weight = embedding.weight!;
        return nn.Sequential(("embedding", embedding), ("middle", nn.Linear(6, 6)), ("tanh", nn.Tanh()), ("head", head));
    }

    private static InMemoryDataset Successors()
    {
        Tensor ids = Models.Seeded(5, static () => randint(0, 10, [64], dtype: ScalarType.Int64));
        return new InMemoryDataset(ids, (ids + 1) % 10);
    }

    public static TheoryData<string> Exact => Strategies.Cases(Strategies.Exact);

    public static TheoryData<string> Others => ["local", "gossip"];

    private static Strategies.Training Training => new() { Model = Tied, Data = Successors, MaxGradientNorm = 0.5 };

    [Theory]
    [MemberData(nameof(Exact))]
    public async Task A_weight_tied_by_its_property_trains_as_in_one_process(string kind)
    {
        Strategies.Outcome[] ranks = await Training.RunRanks(kind);
        Strategies.AssertSame(await Training.Run(new SingleProcess()), ranks);
        Assert.Equal(ranks[0].State["embedding.weight"], ranks[0].State["head.weight"]);
    }

    [Theory]
    [MemberData(nameof(Others))]
    public async Task Ranks_that_train_by_themselves_keep_it_one(string kind)
    {
        Strategies.Outcome[] ranks = await Training.RunRanks(kind);
        Assert.All(ranks, rank => Assert.Equal(ranks[0].State["embedding.weight"], rank.State["head.weight"]));
        Assert.True(ranks[0].Losses[^1] < ranks[0].Losses[0]);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task It_is_updated_once_a_step_whoever_makes_the_optimizer(bool ofTheCaller)
    {
        using InMemoryDataset data = Successors();
        using nn.Module<Tensor, Tensor> model = Models.Seeded(1, Tied), twin = Models.Seeded(1, Tied);
        using var optimizer = optim.SGD(model.parameters(), 0.5);
        Trainer trainer = ofTheCaller
            ? new Trainer(model, optimizer, Models.CrossEntropy) { BatchSize = 64 }
            : new Trainer(model, static parameters => optim.SGD(parameters, 0.5), Models.CrossEntropy) { BatchSize = 64 };
        await trainer.FitAsync(data);

        Models.CrossEntropy(twin.call(data.Features), data.Labels).backward();
        Tensor weight = twin.parameters().First();
        Models.AssertClose(
            (weight - (0.5 * weight.grad!)).detach().contiguous().data<float>().ToArray(), model.parameters().First().data<float>().ToArray(), 1e-5, 1e-6);
    }

    [Fact]
    public async Task Two_parameters_over_one_memory_are_refused_by_both_names()
    {
        Linear first = nn.Linear(20, 20), second = nn.Linear(20, 5);
        second.weight = new Parameter(first.weight.detach().narrow(0, 4, 5));
        using nn.Module<Tensor, Tensor> model = nn.Sequential(("first", first), ("second", second));
        var error = await Assert.ThrowsAsync<InvalidOperationException>(
            () => new Trainer(model, static parameters => optim.SGD(parameters, 0.1), Models.CrossEntropy).FitAsync(Models.Data()));
        Assert.Contains("'first.weight' and 'second.weight'", error.Message, StringComparison.Ordinal);
    }
}

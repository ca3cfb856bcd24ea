using Skein.Training.Gradients;
using static TorchSharp.torch;

namespace Skein.Training.Tests.Gradients;

public class ReplicasTests
{
    [Fact]
    public async Task Models_that_are_equal_already_do_not_travel()
    {
        long[] sent = await RankThreads.Run(3, group => Unify(group, static (_, _) => { }).Sent);
        Assert.All(sent, static bytes => Assert.InRange(bytes, 1, 1500));
    }

    [Theory]
    [InlineData("0.weight")]
    [InlineData("1.running_mean")]
    public async Task One_element_of_one_rank_makes_all_take_rank_0s(string name)
    {
        (long Sent, float[] Values)[] ranks = await RankThreads.Run(3, group => Unify(group, (tensors, rank) =>
        {
            if (rank == 2) tensors[name].view(-1)[^1].add_(1e-6f);
        }));
        float[] expected = Values(Tensors(Model()));
        Assert.All(ranks, rank => Assert.Equal(expected, rank.Values));
        Assert.True(ranks[0].Sent > sizeof(float) * expected.Length);
    }

    private static nn.Module<Tensor, Tensor> Model() => Models.Seeded(3, static () => nn.Sequential(nn.Linear(50, 40), nn.BatchNorm1d(40)));

    private static (long Sent, float[] Values) Unify(Collectives.ProcessGroup group, Action<Dictionary<string, Tensor>, int> change)
    {
        using nn.Module<Tensor, Tensor> model = Model();
        Dictionary<string, Tensor> tensors = Tensors(model);
        change(tensors, group.Rank);
        long before = group.BytesSent;
        Replicas.Unify(group, model);
        return (group.BytesSent - before, Values(tensors));
    }

    private static Dictionary<string, Tensor> Tensors(nn.Module model) => model.named_parameters()
        .Select(static entry => (entry.name, (Tensor)entry.parameter))
        .Concat(model.named_buffers())
        .ToDictionary(static entry => entry.Item1, static entry => entry.Item2.detach());

    private static float[] Values(Dictionary<string, Tensor> tensors) => [.. tensors.Values.SelectMany(static tensor => tensor.to(ScalarType.Float32).data<float>().ToArray())];
}

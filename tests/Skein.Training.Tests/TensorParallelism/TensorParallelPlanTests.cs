using Skein.Training.TensorParallelism;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.Tests.TensorParallelism;

public class TensorParallelPlanTests
{
    [Theory]
    [InlineData("attention.query", "attention.query", true)]
    [InlineData("attention.query", "layers.3.attention.query", true)]
    [InlineData("query", "3.attention.query", true)]
    [InlineData("attention", "layers.3.attention.query", false)]
    [InlineData("ttention.query", "attention.query", false)]
    [InlineData("norm*", "layers.0.norm12", true)]
    [InlineData("norm*", "layers.0.norm1.weight", false)]
    [InlineData("layers.*.up", "layers.10.up", true)]
    [InlineData("layers.*.up", "layers.10.mlp.up", false)]
    [InlineData("a+b", "aab", false)]
    public void A_pattern_matches_the_end_of_a_name_at_dots(string pattern, string name, bool matches) =>
        Assert.Equal(matches, new TensorParallelRule(pattern, TensorParallelKind.Row).Matches(name));

    [Fact]
    public void An_mlps_layers_go_by_pairs_and_a_last_one_is_gathered()
    {
        using var three = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3));
        Assert.Equal(["1: Column", "3: Row", "5: GatheredColumn"], TensorParallelPlan.Mlp(three).Rules.Select(static rule => rule.ToString()));
        using var softmax = nn.Sequential(nn.Linear(4, 8), nn.Softmax(1), nn.Linear(8, 3));
        Assert.Contains("module '1' is a Softmax", Assert.Throws<ArgumentException>(() => TensorParallelPlan.Mlp(softmax)).Message, StringComparison.Ordinal);
        using var linear = nn.Linear(3, 3);
        Assert.Contains("not Linear", Assert.Throws<ArgumentException>(() => TensorParallelPlan.Mlp(linear)).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(5, "heads", "'layers.1.attention.query' has 12 heads, which 5 ranks cannot share equally (12 = 5 * 2 + 2): choose a number of ranks that divides 12")]
    [InlineData(3, "sequence", "the sequence has 10 positions, which 3 ranks cannot share equally (10 = 3 * 3 + 1): choose a length that is a multiple of 3, or turn sequence parallelism off")]
    [InlineData(3, "features", "'0' has 32 outputs, which 3 ranks cannot share equally (32 = 3 * 10 + 2)")]
    [InlineData(2, "nothing", "rule 'layer: Column' matches no module")]
    [InlineData(2, "no rule", "no rule of the plan (tokens: Embedding")]
    [InlineData(2, "kind", "module '1' is a Tanh, which cannot be divided as the plan's rule '1: Row' says: that takes a Linear")]
    [InlineData(4, "few", "'tokens' has 3 rows, which 4 ranks cannot share (3 = 4 * 0 + 3): choose at most 3 ranks")]
    [InlineData(2, "width", "has 24 outputs, which are not 7 heads of equal width")]
    [InlineData(2, "uncovered", "parameter 'norm.weight' belongs to no module that the plan names")]
    [InlineData(2, "statistics", "module 'norm' is a BatchNorm1d, which keeps statistics")]
    [InlineData(2, "tied", "parameter 'second.weight' is also another module's")]
    [InlineData(2, "flat", "activations [n, t, w], but one has the shape [2, 8]")]
    public async Task What_does_not_fit_is_an_error_on_every_rank(int ranks, string what, string message)
    {
        TensorParallelPlan transformer = TensorParallelPlan.Transformer(Transformer.Heads);
        AggregateException error = await Assert.ThrowsAsync<AggregateException>(() => RankThreads.Run(ranks, group =>
        {
            (nn.Module<Tensor, Tensor> model, TensorParallelPlan plan, Func<Tensor>? input) = Models.Seeded<(nn.Module<Tensor, Tensor>, TensorParallelPlan, Func<Tensor>?)>(1, () => what switch
            {
                "heads" => (new Transformer(), transformer, null),
                "sequence" => (new Transformer(), transformer with { SequenceParallel = true }, static () => zeros(2, 10, int64)),
                "features" => (Models.Mlp(), TensorParallelPlan.Mlp(Models.Mlp()), null),
                "nothing" => (Models.Mlp(), new TensorParallelPlan(new TensorParallelRule("layer", TensorParallelKind.Column)), null),
                "no rule" => (Models.Mlp(), transformer, null),
                "kind" => (Models.Mlp(), new TensorParallelPlan(new TensorParallelRule("1", TensorParallelKind.Row)), null),
                "few" => (nn.Sequential(("tokens", nn.Embedding(3, 4))), transformer, null),
                "width" => (new Transformer(), TensorParallelPlan.Transformer(7), null),
                "uncovered" => (nn.Sequential(("norm", nn.LayerNorm(8)), ("up", nn.Linear(8, 8))), new TensorParallelPlan(new TensorParallelRule("up", TensorParallelKind.Column)) { SequenceParallel = true }, null),
                "statistics" => (nn.Sequential(("norm", nn.BatchNorm1d(8))), transformer, null),
                "tied" => Tied(),
                "flat" => (nn.Sequential(("up", nn.Linear(8, 8))), new TensorParallelPlan(new TensorParallelRule("up", TensorParallelKind.Column)) { SequenceParallel = true }, static () => zeros(2, 8)),
                _ => throw new ArgumentOutOfRangeException(nameof(what)),
            });
            using var scope = NewDisposeScope();
            using (model)
            {
                using var strategy = new TensorParallel(group, plan);
                strategy.Attach(model);
                if (input is not null) model.call(input());
            }

            return 0;
        }));
        Assert.Equal(ranks, error.InnerExceptions.Count);
        Assert.All(error.InnerExceptions, one => Assert.Contains(message, Assert.IsAssignableFrom<ArgumentException>(one).Message, StringComparison.Ordinal));
    }

    private static (nn.Module<Tensor, Tensor>, TensorParallelPlan, Func<Tensor>?) Tied()
    {
        Linear first = nn.Linear(8, 8, hasBias: false);
        return (
            nn.Sequential(("first", first), ("second", nn.Linear(first.weight))),
            new TensorParallelPlan(new("first", TensorParallelKind.Column), new("second", TensorParallelKind.Row)), null);
    }
}

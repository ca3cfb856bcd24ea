using Skein.Collectives;
using Skein.Training.Gradients;
using Skein.Training.TensorParallelism;
using static TorchSharp.torch;

namespace Skein.Training.Tests.TensorParallelism;

public class ParallelModuleTests
{
    public static TheoryData<int, ScalarType, double> RanksAndTypes => new(
        from ranks in new[] { 1, 2, 3, 4 }
        from type in new[] { (ScalarType.Float32, 1e-5), (ScalarType.BFloat16, 3e-2), (ScalarType.Float64, 1e-6) }
        select (ranks, type.Item1, type.Item2));

    [Theory]
    [MemberData(nameof(RanksAndTypes))]
    public Task A_column_parallel_and_a_row_parallel_layer_equal_whole_ones(int ranks, ScalarType type, double tolerance) => Divided.AssertEqualsWhole(
        ranks,
        static () => nn.Sequential(("up", nn.Linear(10, 24)), ("act", nn.GELU()), ("down", nn.Linear(24, 7))),
        new TensorParallelPlan(new("up", TensorParallelKind.Column), new("down", TensorParallelKind.Row)),
        static () => randn(5, 10), tolerance, type);

    [Theory]
    [MemberData(nameof(RanksAndTypes))]
    public Task With_sequence_parallelism_they_and_the_norm_before_equal_whole_ones(int ranks, ScalarType type, double tolerance) => Divided.AssertEqualsWhole(
        ranks,
        static () => nn.Sequential(("norm", nn.LayerNorm(10)), ("up", nn.Linear(10, 24)), ("act", nn.GELU()), ("down", nn.Linear(24, 7))),
        new TensorParallelPlan(new("norm", TensorParallelKind.Sequence), new("up", TensorParallelKind.Column), new("down", TensorParallelKind.Row)) { SequenceParallel = true },
        static () => randn(3, 12, 10), tolerance, type);

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    public Task Gathered_outputs_equal_whole_ones_also_in_unequal_parts(int ranks) => Divided.AssertEqualsWhole(
        ranks,
        static () => nn.Sequential(("classes", nn.Linear(6, 10)), ("scores", nn.Softmax(-1))),
        new TensorParallelPlan(new TensorParallelRule("classes", TensorParallelKind.GatheredColumn)),
        static () => randn(2, 3, 6));

    [Theory]
    [InlineData(1, false)]
    [InlineData(2, true)]
    [InlineData(3, false)]
    [InlineData(4, true)]
    public Task An_embedding_equals_a_whole_one_also_in_unequal_parts(int ranks, bool sequence) => Divided.AssertEqualsWhole(
        ranks,
        static () => nn.Sequential(("tokens", nn.Embedding(26, 8))),
        new TensorParallelPlan(new TensorParallelRule("tokens", TensorParallelKind.Embedding)) { SequenceParallel = sequence },
        static () => randint(0, 26, [3, 12]));

    [Fact]
    public async Task An_id_outside_of_the_vocabulary_is_an_error_on_every_rank()
    {
        AggregateException error = await Assert.ThrowsAsync<AggregateException>(() => RankThreads.Run(3, group =>
        {
            using var whole = nn.Sequential(("tokens", nn.Embedding(26, 8)));
            _ = new PartitionedModel(whole, new TensorParallelPlan(new TensorParallelRule("tokens", TensorParallelKind.Embedding)), Divided.Region(group));
            using Tensor ids = tensor(new long[] { 3, 26 }, 1, 2);
            whole.call(ids).Dispose();
            return 0;
        }));
        Assert.Equal(3, error.InnerExceptions.Count);
        Assert.All(error.InnerExceptions, static one => Assert.Contains("vocabulary of 26, whose ids go from 0 to 25", one.Message, StringComparison.Ordinal));
    }

    [Theory]
    [InlineData(2)]
    [InlineData(3)]
    public async Task Dropout_on_slices_drops_what_one_process_drops(int ranks)
    {
        using Tensor input = Models.Seeded(2, static () => randn(4, 12, 5));
        using Tensor expected = Models.Seeded(9, () => nn.functional.dropout(input, 0.3, training: true));
        Tensor[] slices = await RankThreads.Run(ranks, group =>
        {
            using var dropout = new SequenceDropout(Divided.Region(group, sequence: true), 0.3);
            using Tensor mine = Divided.Part(input, ranks, group.Rank, 1);
            // LibTorch's generator belongs to the process: the ranks take turns.
            return Models.Seeded(9, () => dropout.call(mine));
        });
        using Tensor actual = cat(slices, 1);
        Assert.Equal(expected.data<float>().ToArray(), actual.data<float>().ToArray());
        foreach (Tensor slice in slices) slice.Dispose();
    }

    [Fact]
    public async Task An_error_inside_a_backward_pass_is_thrown_after_it()
    {
        AggregateException error = await Assert.ThrowsAsync<AggregateException>(() => RankThreads.Run(2, group =>
        {
            if (group.Rank == 1)
            {
                group.AllReduce(new int[3].AsSpan());
                return 0;
            }

            using var scope = NewDisposeScope();
            var failure = new BackwardFailure();
            var region = new ParallelRegion(new TensorCollectives(group), failure, sequenceParallel: false);
            Tensor input = randn(4, 5).requires_grad_();
            // The second one's pass goes on with what the failed first one hands it.
            region.Enter(region.Enter(input)).sum().backward();
            failure.ThrowIfAny();
            return 0;
        }));
        Assert.All(error.InnerExceptions, static one => Assert.IsAssignableFrom<SkeinException>(one));
        Assert.Contains(error.InnerExceptions, static one => one is CollectiveMismatchException);
    }
}

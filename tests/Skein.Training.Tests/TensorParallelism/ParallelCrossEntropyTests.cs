using Skein.Training.TensorParallelism;
using TorchSharp;
using static TorchSharp.torch;

namespace Skein.Training.Tests.TensorParallelism;

public class ParallelCrossEntropyTests
{
    // A vocabulary of 26 does not divide by 3 and 4.
    [Theory]
    [InlineData(1, true, 1)]
    [InlineData(2, true, 1)]
    [InlineData(3, false, 1)]
    [InlineData(4, true, 1)]
    [InlineData(2, false, 1e4)]
    [InlineData(4, true, 1e4)]
    [InlineData(3, true, 1e30)]
    public async Task Loss_and_gradient_equal_torchs(int ranks, bool sequences, double scale)
    {
        using var all = NewDisposeScope();
        const int Vocabulary = 26;
        Tensor logits = Models.Seeded(1, () => (randn(sequences ? [3, 5, Vocabulary] : [15, Vocabulary]) * scale).requires_grad_());
        Tensor labels = Models.Seeded(2, () => randint(0, Vocabulary, sequences ? [3, 5] : [15]));
        // Some count for nothing.
        labels = labels.masked_fill(labels.gt(20), ParallelCrossEntropy.Ignored);
        Tensor expected = nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten());
        (expected * 0.7).backward();
        await RankThreads.Run(ranks, group =>
        {
            using var scope = NewDisposeScope();
            ParallelRegion region = Divided.Region(group);
            Tensor part = Divided.Part(logits.detach(), ranks, group.Rank, logits.dim() - 1).clone().requires_grad_();
            (Tensor loss, long count) = ParallelCrossEntropy.Compute(region, part, labels, Vocabulary);
            (Tensor sum, _) = ParallelCrossEntropy.Compute(region, part.detach(), labels, Vocabulary, average: false);
            (loss * 0.7).backward();
            Assert.Equal(expected.ToDouble(), loss.ToDouble(), 1e-6 * expected.ToDouble());
            Assert.Equal(labels.ge(0).sum().ToInt64(), count);
            Assert.Equal(expected.ToDouble() * count, sum.ToDouble(), 1e-6 * count * expected.ToDouble());
            Assert.True(part.grad!.isfinite().all().ToBoolean());
            Divided.AssertClose(Divided.Part(logits.grad!, ranks, group.Rank, logits.dim() - 1), part.grad!, 1e-5, "gradient");
            region.Collectives.Dispose();
            return 0;
        });
    }

    [Fact]
    public async Task Labels_of_another_shape_or_type_are_an_error()
    {
        await RankThreads.Run(2, group =>
        {
            using var scope = NewDisposeScope();
            Tensor part = randn(2, 3, 4);
            var error = Assert.Throws<ArgumentException>(() => ParallelCrossEntropy.Compute(Divided.Region(group), part, zeros(6, int64), 8));
            Assert.Contains("Int64[2, 3], not Int64[6]", error.Message, StringComparison.Ordinal);
            Assert.Throws<ArgumentException>(() => ParallelCrossEntropy.Compute(Divided.Region(group), part, zeros(2, 3), 8));
            return 0;
        });
    }
}

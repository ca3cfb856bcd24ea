using Skein.ParameterServer.Control;

namespace Skein.ParameterServer.Tests.Control;

public class SumRoundTests
{
    [Fact]
    public void The_order_of_addition_is_that_of_the_ids()
    {
        double[] values = [1e16, 1, -1e16, 1];
        double expected = ((0 + 1e16 + 1) + -1e16) + 1;
        foreach (int[] order in new int[][] { [0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1] })
        {
            var round = new SumRound("loss", 1);
            foreach (int worker in order) round.Contribute(worker, [values[worker]]);

            Assert.True(round.TryEnd([0, 1, 2, 3]));
            Assert.Equal([expected], round.Result!.Sums);
            Assert.Equal([0, 1, 2, 3], round.Result.Workers);
        }
    }

    [Fact]
    public void It_waits_for_all_and_counts_only_them()
    {
        var round = new SumRound("loss", 2);
        round.Contribute(0, [1, 2]);
        round.Contribute(1, [10, 20]);

        Assert.False(round.TryEnd([0, 1, 2]));
        Assert.Equal([2], round.MissingOf([0, 1, 2]));
        Assert.True(round.TryEnd([0]));
        Assert.Equal([1, 2], round.Result!.Sums);
        Assert.Equal([0], round.Result.Workers);
    }

    [Fact]
    public void Another_length_is_an_error_for_everybody()
    {
        var round = new SumRound("loss", 2);
        round.Contribute(0, [1, 2]);
        round.Contribute(1, [1]);
        Assert.Equal("worker 1 contributed 1 values to the sum 'loss', but another worker 2", round.Failure);

        Assert.False(round.TryEnd([0, 1, 2]));
        round.Contribute(2, [1, 2]);
        Assert.True(round.TryEnd([0, 1, 2]));
        Assert.Null(round.Result);
    }

    [Fact]
    public void Nobody_contributes_twice()
    {
        var round = new SumRound("loss", 1);
        round.Contribute(0, [1]);
        Assert.Throws<ParameterServerException>(() => round.Contribute(0, [1]));
    }
}

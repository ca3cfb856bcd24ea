using Skein.Collectives;
using Skein.Training.Compression;

namespace Skein.Training.Tests.Compression;

public class CompressedAverageTests
{
    private static readonly ParameterPlace[] Places = [new(0, 40, 30), new(1200, 1, 37), new(1237, 5, 3), new(1252, 1, 0), new(1252, 1, 1)];
    private const int Length = 1253;

    public static TheoryData<string, int> Methods
    {
        get
        {
            var data = new TheoryData<string, int>();
            foreach (string method in new[] { "none", "fp16", "bf16", "int8", "qsgd:4", "topk:0.05", "randomk:0.05", "powersgd:2", "signsgd", "signsgd:majority" })
            {
                foreach (int ranks in new[] { 1, 2, 3, 4 }) data.Add(method, ranks);
            }

            return data;
        }
    }

    private static CompressedAverage Make(ProcessGroup group, string method, double momentum = 0, int warmup = 0, double? clip = null) => new(
        group, CompressionSpec.Parse(method),
        new CompressionOptions { Rules = CompressionRules.Parse(method), Seed = 3, Momentum = momentum, WarmupSteps = warmup, ClipNorm = clip }, Places, Length, index: 2);

    private static float[] Gradients(int rank, int step) => Gradient.Of(Length, (100 * step) + rank);

    [Theory]
    [MemberData(nameof(Methods))]
    public async Task All_ranks_get_the_same_and_twice_the_same(string method, int ranks)
    {
        Task<float[][]> Run() => RankThreads.Run(ranks, group =>
        {
            CompressedAverage average = Make(group, method);
            float[] values = [];
            for (int step = 0; step < 4; step++)
            {
                values = Gradients(group.Rank, step);
                Assert.True(average.Average(values));
                average.Settle(true);
            }

            return values;
        });

        float[][] first = await Run();
        Assert.All(first, rank => Assert.Equal(first[0], rank));
        Assert.Equal(first[0], (await Run())[0]);
    }

    [Theory]
    [InlineData("int8", 3)]
    [InlineData("signsgd", 3)]
    [InlineData("topk:0.05", 3)]
    [InlineData("randomk:0.05", 2)]
    [InlineData("powersgd:2", 3)]
    public async Task Over_time_everything_gets_through(string method, int ranks)
    {
        // What error feedback promises (invariant 5): the sum of the averages and of what is still kept is the sum of the
        // mean gradients. With the same gradient in each step, the mean of the averages tends to it as 1/steps.
        const int steps = 400;
        float[][] sums = await RankThreads.Run(ranks, group =>
        {
            CompressedAverage average = Make(group, method);
            var sum = new float[Length];
            for (int step = 0; step < steps; step++)
            {
                float[] values = Gradients(group.Rank, 0);
                average.Average(values);
                average.Settle(true);
                for (int i = 0; i < Length; i++) sum[i] += values[i] / steps;
            }

            return sum;
        });
        float[] expected = MeanGradient(ranks, 0);
        double distance = Norm([.. expected.Zip(sums[0], static (a, b) => a - b)]);
        Assert.InRange(distance / Norm(expected), 0, 0.12);
    }

    [Theory]
    [MemberData(nameof(Methods))]
    public async Task What_is_sent_and_what_is_kept_make_the_gradient(string method, int ranks)
    {
        // In one step from nothing: the ranks' means of what they sent and of what they kept make the mean gradient. The
        // two passes keep something of the average as well, so the first pass alone is looked at through the kept part.
        (float[] Average, float[] Kept, double Error)[] all = await RankThreads.Run(ranks, group =>
        {
            CompressedAverage average = Make(group, method);
            float[] values = Gradients(group.Rank, 0);
            average.Average(values);
            float[] kept = [.. average.Kept];
            average.Settle(true);
            return (values, kept, average.Statistics.RelativeError);
        });
        if (method is "topk:0.05" or "randomk:0.05" or "powersgd:2" or "none")
        {
            float[] expected = MeanGradient(ranks, 0);
            for (int i = 0; i < Length; i++)
            {
                double kept = all.Average(rank => (double)rank.Kept[i]);
                Assert.Equal(expected[i], all[0].Average[i] + kept, 1e-6 + (1e-4 * Math.Abs(expected[i])));
            }
        }

        for (int rank = 0; rank < ranks; rank++) if (method != "none") Assert.Equal(1, Norm(all[rank].Kept) / Norm(Gradients(rank, 0)) / all[rank].Error, 1e-5);
    }

    [Theory]
    [InlineData("fp16", 0.001)]
    [InlineData("bf16", 0.005)]
    [InlineData("int8", 0.02)]
    [InlineData("qsgd:8", 0.02)]
    [InlineData("none", 1e-6)]
    public async Task The_average_is_close_to_the_mean(string method, double error)
    {
        float[][] all = await RankThreads.Run(3, group =>
        {
            float[] values = Gradients(group.Rank, 7);
            Make(group, method).Average(values);
            return values;
        });
        float[] expected = MeanGradient(3, 7);
        Assert.InRange(Norm([.. expected.Zip(all[0], static (a, b) => a - b)]) / Norm(expected), 0, error);
    }

    [Theory]
    [InlineData("fp16")]
    [InlineData("bf16")]
    [InlineData("int8")]
    [InlineData("qsgd:8")]
    public async Task Averages_of_gradients_of_any_size_are_close_to_the_mean(string method)
    {
        foreach (float size in new[] { 1e-25f, 2e-8f, 1, 40_000, 65_504, 1e30f })
        {
            float[][] all = await RankThreads.Run(4, group =>
            {
                float[] values = Gradients(group.Rank, 7);
                // One rank is far above the others.
                float factor = size / values.Max(MathF.Abs) * (group.Rank == 2 ? 1 : 0.01f);
                foreach (ref float value in values.AsSpan()) value *= factor;
                float[] own = [.. values];
                Assert.True(Make(group, method).Average(values));
                float[] mean = [.. own];
                group.AllReduce(mean.AsSpan(), ReduceOperation.Average);
                Assert.InRange(Norm([.. mean.Zip(values, (a, b) => (a - b) / size)]) / Norm(mean.Select(value => value / size)), 0, 0.03);
                return values;
            });
            Assert.All(all, rank => Assert.Equal(all[0], rank));
        }
    }

    [Fact]
    public async Task Majority_is_the_sign_that_most_ranks_have()
    {
        float[][] all = await RankThreads.Run(3, group =>
        {
            float[] values = Gradients(group.Rank, 1);
            Make(group, "signsgd:majority").Average(values);
            return values;
        });
        for (int i = 0; i < Length; i++)
        {
            int votes = Enumerable.Range(0, 3).Sum(rank => Math.Sign(Gradients(rank, 1)[i]));
            if (votes != 0) Assert.Equal(Math.Sign(votes), all[0][i]);
        }
    }

    [Theory]
    [InlineData("topk:0.05")]
    [InlineData("randomk:0.05")]
    public async Task Momentum_is_corrected_as_on_paper(string method)
    {
        // Algorithm 1 of deep gradient compression, in double and in full: u = m u + g, v = v + u; what is sent leaves both.
        const double momentum = 0.9;
        float[][] averages = await RankThreads.Run(1, group =>
        {
            CompressedAverage average = Make(group, method, momentum);
            double[] u = new double[Length], v = new double[Length];
            for (int step = 0; step < 30; step++)
            {
                float[] values = Gradients(0, step);
                for (int i = 0; i < Length; i++)
                {
                    u[i] = (momentum * u[i]) + values[i];
                    v[i] += u[i];
                }

                average.Average(values);
                average.Settle(true);
                for (int i = 0; i < Length; i++)
                {
                    if (values[i] == 0) continue;
                    Assert.Equal(v[i], values[i], 1e-5 + (1e-3 * Math.Abs(v[i])));
                    u[i] = 0;
                    v[i] -= values[i];
                }
            }

            return v.Select(static value => (float)value).ToArray();
        });
        Assert.Contains(averages[0], static value => value != 0);
    }

    [Theory]
    [InlineData("int8")]
    [InlineData("topk:0.05")]
    [InlineData("powersgd:2")]
    [InlineData("signsgd")]
    public async Task A_step_that_does_not_count_leaves_no_trace(string method)
    {
        float[][] all = await RankThreads.Run(2, group =>
        {
            CompressedAverage with = Make(group, method, momentum: 0.9), without = Make(group, method, momentum: 0.9);
            float[] expected = [], actual = [];
            for (int step = 0; step < 6; step++)
            {
                expected = Gradients(group.Rank, step);
                without.Average(expected);
                without.Settle(true);
                if (step == 3)
                {
                    float[] bad = Gradients(group.Rank, 50);
                    if (group.Rank == 1) bad[7] = float.NaN;
                    Assert.Equal(group.Rank == 0, with.Average(bad));
                    Assert.All(bad, value => Assert.True(float.IsFinite(value)));
                    with.Settle(false);
                }

                actual = Gradients(group.Rank, step);
                with.Average(actual);
                with.Settle(true);
                // PowerSGD starts from a better Q after one more average, so only what it keeps is comparable.
                if (!method.StartsWith("powersgd", StringComparison.Ordinal)) Assert.Equal(expected, actual);
            }

            return actual;
        });
        Assert.Equal(all[0], all[1]);
    }

    [Theory]
    [MemberData(nameof(Methods))]
    public async Task Saved_state_goes_on_as_if_nothing_had_been(string method, int ranks) => await RankThreads.Run(ranks, group =>
    {
        CompressedAverage whole = Make(group, method, momentum: 0.5, warmup: 4), first = Make(group, method, momentum: 0.5, warmup: 4);
        for (int step = 0; step < 6; step++)
        {
            float[] expected = Gradients(group.Rank, step), actual = Gradients(group.Rank, step);
            whole.Average(expected);
            whole.Settle(true);
            first.Average(actual);
            first.Settle(true);
            Assert.Equal(expected, actual);
            using var stream = new MemoryStream();
            using (var writer = new BinaryWriter(stream, System.Text.Encoding.UTF8, leaveOpen: true)) first.Save(writer);
            stream.Position = 0;
            first = Make(group, method, momentum: 0.5, warmup: 4);
            using var reader = new BinaryReader(stream);
            first.Load(reader);
            Assert.Equal(stream.Length, stream.Position);
        }

        return true;
    });

    [Fact]
    public async Task State_of_another_method_is_refused() => await RankThreads.Run(1, group =>
    {
        using var stream = new MemoryStream();
        using var writer = new BinaryWriter(stream);
        Make(group, "int8").Save(writer);
        stream.Position = 0;
        using var reader = new BinaryReader(stream);
        Assert.Contains("int8", Assert.Throws<InvalidDataException>(() => Make(group, "topk:0.5").Load(reader)).Message, StringComparison.Ordinal);
        return true;
    });

    [Fact]
    public async Task A_large_gradient_is_clipped_before_it_is_added() => await RankThreads.Run(4, group =>
    {
        float[] values = Gradients(group.Rank, 0);
        CompressedAverage average = Make(group, "topk:1", clip: 0.5);
        average.Average(values);
        // Each rank's share is 0.5 / √4; the average of four such has at most that norm.
        Assert.InRange(Norm(values), 0, 0.25 * 1.001);
        return true;
    });

    [Theory]
    [InlineData("fp16", 1.99)]
    [InlineData("int8", 3.9)]
    [InlineData("qsgd:4", 10)]
    [InlineData("signsgd", 25)]
    public async Task Statistics_count_what_was_sent(string method, double ratio) => await RankThreads.Run(4, group =>
    {
        var average = new CompressedAverage(
            group, CompressionSpec.Parse(method), new CompressionOptions { Rules = CompressionRules.Parse(method) }, [new ParameterPlace(0, 100, 400)], 40_000, 0);
        average.Average(Gradient.Of(40_000, group.Rank));
        CompressionStatistics statistics = average.Statistics;
        Assert.Equal(2 * 3 * 40_000, statistics.UncompressedBytes);
        Assert.InRange(statistics.Ratio, ratio, ratio * 1.6);
        return true;
    });

    private static float[] MeanGradient(int ranks, int step)
    {
        float[][] all = [.. Enumerable.Range(0, ranks).Select(rank => Gradients(rank, step))];
        return [.. Enumerable.Range(0, Length).Select(i => all.Average(rank => rank[i]))];
    }

    private static double Norm(IEnumerable<float> values) => Math.Sqrt(values.Sum(static value => (double)value * value));
}

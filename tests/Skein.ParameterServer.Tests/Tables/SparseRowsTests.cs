using FsCheck;
using FsCheck.Fluent;

namespace Skein.ParameterServer.Tests;

public class SparseRowsTests
{
    private static readonly Config Fixed = Config.QuickThrowOnFailure.WithMaxTest(300).WithReplay(20260303, 1);

    private static readonly Gen<(long[] Ids, int Dimension)> Cases =
        from ids in Gen.OneOf(Gen.Choose(0, 9).Select(id => (long)id), ArbMap.Default.GeneratorFor<long>()).ArrayOf()
        from dimension in Gen.Choose(1, 20)
        select (ids, dimension);

    [Fact]
    public void Combining_sums_the_rows_of_an_id_in_the_order_of_first_appearance() => Prop.ForAll(Cases.ToArbitrary(), sample =>
    {
        (long[] ids, int dimension) = sample;
        float[] gradients = Numbers.Random(1, ids.Length * dimension);
        // Enumerable.GroupBy keeps the order of keys and elements.
        var expected = ids.Zip(gradients.Chunk(dimension)).GroupBy(row => row.First, row => row.Second).Select(group => (
            Id: group.Key, Sum: group.Aggregate((sum, row) => [.. sum.Zip(row, (left, right) => left + right)]))).ToArray();
        long[] combined = [.. ids];

        int distinct = SparseRows.Combine(combined, gradients, dimension);

        Assert.Equal(expected.Select(row => row.Id), combined.Take(distinct));
        Assert.Equal(expected.SelectMany(row => row.Sum), gradients.Take(distinct * dimension));
    }).Check(Fixed);

    [Fact]
    public void Combining_refuses_lengths_that_do_not_fit()
    {
        Assert.Throws<ArgumentException>(() => SparseRows.Combine(new long[2], new float[5], 2));
        Assert.Throws<ArgumentOutOfRangeException>(() => SparseRows.Combine(new long[2], [], 0));
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(16)]
    public void Neighbouring_and_strided_rows_spread_over_all_servers(int servers)
    {
        const int Count = 16_000;
        foreach (long stride in new[] { 1L, 16, 1000, 1L << 40 })
        {
            int[] loads = new int[servers];
            for (int i = 0; i < Count; i++) loads[SparseRows.ServerOf(i * stride, servers)]++;
            double expected = (double)Count / servers, error = 5 * Math.Sqrt(expected);
            foreach (int load in loads) Assert.InRange(load, expected - error, expected + error);
        }
    }

    [Fact]
    public void The_server_of_a_row_never_changes()
    {
        Assert.Equal([3, 1, 2, 1, 0], new[] { 0, 1, 2, 3, 1_000_000_000_000 }.Select(id => SparseRows.ServerOf(id, 4)));
        Assert.Throws<ArgumentOutOfRangeException>(() => SparseRows.ServerOf(1, 0));
    }
}

namespace Skein.ParameterServer.Tests;

public class InitialRowsTests
{
    [Fact]
    public void Rows_are_normal_and_independent()
    {
        const int Rows = 20_000, Dimension = 7;
        double[] values = [.. Enumerable.Range(0, Rows).SelectMany(id => Row(new TableSpec("t", Rows, Dimension, 0.5f, 3), id)).Select(value => value / 0.5)];

        // Bounds of four standard errors for 140,000 samples.
        double error = 4 / Math.Sqrt(values.Length);
        Assert.InRange(values.Average(), -error, error);
        Assert.InRange(values.Average(x => x * x) - 1, -error * Math.Sqrt(2), error * Math.Sqrt(2));
        Assert.InRange(values.Average(x => x * x * x), -error * Math.Sqrt(15), error * Math.Sqrt(15));
        Assert.InRange(values.Average(x => x * x * x * x) - 3, -error * Math.Sqrt(96), error * Math.Sqrt(96));
        // Elements one and two apart, and elements of neighbouring rows.
        foreach (int lag in new[] { 1, 2, Dimension })
        {
            double correlation = values.Zip(values.Skip(lag)).Average(pair => pair.First * pair.Second);
            Assert.InRange(correlation, -error, error);
        }
    }

    [Fact]
    public void Rows_are_a_function_of_seed_name_and_id()
    {
        var spec = new TableSpec("t", 100, 6, 1, 3);
        float[] row = Row(spec, 7);

        Assert.Equal(row, Row(new TableSpec("t", 100, 6, 1, 3), 7));
        foreach (float[] other in new[] { Row(spec, 8), Row(spec with { Seed = 4 }, 7), Row(spec with { Name = "u" }, 7) })
        {
            Assert.Empty(row.Intersect(other));
        }
    }

    [Fact]
    public void The_first_row_of_a_seed_never_changes() =>
        Numbers.AssertClose(ExpectedRow, Row(new TableSpec("t", 10, 3, 1, 42), 9), 1e-6, 0);

    [Fact]
    public void Without_deviation_rows_are_zero() => Assert.Equal([0, 0, 0], Row(new TableSpec("t", 1, 3, 0, 1), 0));

    [Theory]
    [InlineData(0, 1, 1)]
    [InlineData(1, 0, 1)]
    [InlineData(1, 65_537, 1)]
    [InlineData(1, 1, -1)]
    [InlineData(1, 1, float.PositiveInfinity)]
    public void A_table_that_cannot_be_is_refused(long rows, int dimension, float deviation) =>
        Assert.Contains("table 't'", Assert.Throws<ArgumentOutOfRangeException>(() => new TableSpec("t", rows, dimension, deviation, 0)).Message, StringComparison.Ordinal);

    private static readonly double[] ExpectedRow = [0.608949815, -0.285323478, -0.339949961];

    private static float[] Row(TableSpec spec, long id)
    {
        float[] row = new float[spec.Dimension];
        new InitialRows(spec).Fill(id, row);
        return row;
    }
}

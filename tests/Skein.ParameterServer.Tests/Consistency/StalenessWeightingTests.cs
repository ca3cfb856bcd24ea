namespace Skein.ParameterServer.Tests;

public class StalenessWeightingTests
{
    [Theory]
    [InlineData("none", 0, 1)]
    [InlineData("none", long.MaxValue, 1)]
    [InlineData("inverse", 0, 1)]
    [InlineData("inverse", 1, 1)]
    [InlineData("inverse", 8, 0.125)]
    [InlineData("exponential:0.5", 0, 1)]
    [InlineData("exponential:0.5", 4, 0.1353352832366127)] // e^-2
    [InlineData("polynomial:0.5", 0, 1)]
    [InlineData("polynomial:0.5", 3, 0.5)]
    [InlineData("polynomial:2", 9, 0.01)]
    public void Weights_are_those_of_the_papers(string text, long staleness, double expected) =>
        Assert.Equal(expected, StalenessWeighting.Parse(text).Weight(staleness), 1e-15);

    [Theory]
    [InlineData("none")]
    [InlineData("inverse")]
    [InlineData("exponential:0.1")]
    [InlineData("polynomial:1E-05")]
    public void Is_read_and_written_alike(string text) => Assert.Equal(text, StalenessWeighting.Parse(text).ToString());

    [Fact]
    public void Is_compared_by_value()
    {
        Assert.Equal(StalenessWeighting.Exponential(0.25), StalenessWeighting.Parse("exponential:0.25"));
        Assert.Equal(StalenessWeighting.None, default);
        Assert.NotEqual(StalenessWeighting.Exponential(0.25), StalenessWeighting.Polynomial(0.25));
    }

    [Theory]
    [InlineData("")]
    [InlineData("None")]
    [InlineData("inverse:2")]
    [InlineData("exponential")]
    [InlineData("exponential:")]
    [InlineData("exponential:0")]
    [InlineData("exponential:-1")]
    [InlineData("exponential:NaN")]
    [InlineData("exponential:1e999")]
    [InlineData("polynomial:1,5")]
    [InlineData("linear:1")]
    public void What_it_is_not_is_named_with_the_choices(string text)
    {
        var error = Assert.Throws<FormatException>(() => StalenessWeighting.Parse(text));

        Assert.Contains($"'{text}'", error.Message, StringComparison.Ordinal);
        Assert.Contains("choose none, inverse, exponential:RATE or polynomial:ALPHA", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Negative_staleness_and_bad_parameters_are_refused()
    {
        Assert.Throws<ArgumentOutOfRangeException>(() => StalenessWeighting.None.Weight(-1));
        Assert.Throws<ArgumentOutOfRangeException>(() => StalenessWeighting.Exponential(0));
        Assert.Throws<ArgumentOutOfRangeException>(() => StalenessWeighting.Polynomial(double.PositiveInfinity));
    }
}

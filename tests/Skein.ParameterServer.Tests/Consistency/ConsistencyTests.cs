namespace Skein.ParameterServer.Tests;

public class ConsistencyTests
{
    [Theory]
    [InlineData("bsp", 0, true)]
    [InlineData("ssp:1", 1, false)]
    [InlineData("ssp:2147483647", int.MaxValue, false)]
    [InlineData("async", null, false)]
    public void Is_read_and_written_alike(string text, int? bound, bool synchronous)
    {
        Consistency consistency = Consistency.Parse(text);

        Assert.Equal(bound, consistency.Bound);
        Assert.Equal(synchronous, consistency.Synchronous);
        Assert.Equal(text, consistency.ToString());
    }

    [Fact]
    public void Is_compared_by_what_it_does()
    {
        Assert.Equal(Consistency.Bsp, Consistency.Parse("ssp:0"));
        Assert.Equal(Consistency.Bsp, Consistency.Ssp(0));
        Assert.Equal(Consistency.Bsp, default);
        Assert.Equal(Consistency.Ssp(3), Consistency.Parse("ssp:3"));
        Assert.NotEqual(Consistency.Async, Consistency.Ssp(int.MaxValue));
    }

    [Theory]
    [InlineData("")]
    [InlineData("BSP")]
    [InlineData("ssp")]
    [InlineData("ssp:")]
    [InlineData("ssp:-1")]
    [InlineData("ssp: 1")]
    [InlineData("ssp:1.5")]
    [InlineData("ssp:2147483648")]
    [InlineData("async:2")]
    public void What_it_is_not_is_named_with_the_choices(string text)
    {
        var error = Assert.Throws<FormatException>(() => Consistency.Parse(text));

        Assert.Contains($"'{text}'", error.Message, StringComparison.Ordinal);
        Assert.Contains("choose bsp, ssp:BOUND", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_negative_bound_is_refused() => Assert.Throws<ArgumentOutOfRangeException>(() => Consistency.Ssp(-1));
}

using Skein.Training.Compression;

namespace Skein.Training.Tests.Compression;

public class CompressionSpecTests
{
    [Theory]
    [InlineData("gzip", "unknown compression 'gzip'")]
    [InlineData("", "unknown compression ''")]
    [InlineData("fp16:2", "unknown compression 'fp16:2'")]
    [InlineData("signsgd:often", "unknown compression 'signsgd:often'")]
    [InlineData("topk", "RATIO is a number above 0 and at most 1")]
    [InlineData("topk:0", "RATIO")]
    [InlineData("topk:1.01", "RATIO")]
    [InlineData("topk:NaN", "RATIO")]
    [InlineData("topk:-0.1", "RATIO")]
    [InlineData("randomk:0", "RATIO")]
    [InlineData("qsgd", "BITS is a whole number from 2 to 8")]
    [InlineData("qsgd:1", "BITS")]
    [InlineData("qsgd:9", "BITS")]
    [InlineData("powersgd:0", "RANK is a whole number from 1 to 1024")]
    [InlineData("powersgd:-1", "RANK")]
    [InlineData("topk:0.1;bias", "compression rule 'bias'")]
    [InlineData("topk:0.1;=none", "compression rule '=none'")]
    [InlineData("topk:0.1;bias=zip", "unknown compression 'zip'")]
    [InlineData("topk:0.1;bias=auto", "auto is for all parameters")]
    public void What_makes_no_sense_is_named(string text, string message) =>
        Assert.Contains(message, Assert.Throws<FormatException>(() => CompressionRules.Parse(text)).Message, StringComparison.Ordinal);

    [Fact]
    public void The_first_rule_that_fits_wins()
    {
        CompressionRules rules = CompressionRules.Parse("topk:0.01;bias,norm=none;conv=powersgd:2");
        Assert.Equal("none", $"{rules.Of("conv1.bias")}");
        Assert.Equal("none", $"{rules.Of("norm.weight")}");
        Assert.Equal("powersgd:2", $"{rules.Of("conv1.weight")}");
        Assert.Equal("topk:0.01", $"{rules.Of("fc.weight")}");
        Assert.Equal("topk:0.01;bias=none;norm=none;conv=powersgd:2", $"{rules}");
    }
}

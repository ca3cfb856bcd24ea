using System.Text;
using FsCheck;
using FsCheck.Fluent;

namespace Skein.Hosting.Tests;

public sealed class LineSplitterTests
{
    [Fact]
    public void Lines_do_not_depend_on_how_the_bytes_arrive() =>
        Prop.ForAll<string, byte>((text, size) =>
        {
            var bytes = Encoding.UTF8.GetBytes(text ?? "");
            return Split(bytes, Math.Max(1, (int)size)).SequenceEqual(Split(bytes, Math.Max(1, bytes.Length)));
        }).Check(Config.QuickThrowOnFailure.WithReplay(20260101, 7));

    [Theory]
    [InlineData("", "")]
    [InlineData("a", "a")]
    [InlineData("a\n", "a")]
    [InlineData("a\nb", "a|b")]
    [InlineData("\n\n", "|")]
    [InlineData("a\r\nb\r", "a|b")]
    public void Line_ends_are_removed(string text, string lines) =>
        Assert.Equal(text.Length == 0 ? [] : lines.Split('|'), Split(Encoding.UTF8.GetBytes(text), 3));

    [Fact]
    public void A_line_without_an_end_is_cut_at_the_limit()
    {
        var lines = Split(new byte[(2 * LineSplitter.MaximumLine) + 5], 100_000);
        Assert.Equal([LineSplitter.MaximumLine, LineSplitter.MaximumLine, 5], lines.Select(line => line.Length));
    }

    private static List<string> Split(byte[] bytes, int size)
    {
        var lines = new List<string>();
        var splitter = new LineSplitter();
        void Add(ReadOnlyMemory<byte> line) => lines.Add(Encoding.UTF8.GetString(line.Span));
        foreach (var chunk in bytes.Chunk(size)) splitter.Append(chunk, Add);
        splitter.Flush(Add);
        return lines;
    }
}

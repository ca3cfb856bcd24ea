using System.Runtime.InteropServices;
using System.Text;
using Microsoft.ML.Tokenizers;
using Skein.Workloads.Language;

namespace Skein.Workloads.Tests.Language;

/// <summary>GPT-2's tokens, against another implementation of it.</summary>
public sealed class TokenizerTests : IDisposable
{
    private static readonly TiktokenTokenizer Reference = TiktokenTokenizer.CreateForModel("gpt2");
    private static readonly TextTokenizer Gpt2 = TextTokenizer.Create("gpt2");
    private readonly string directory = Directory.CreateTempSubdirectory("skein-tokens-").FullName;

    public void Dispose() => Directory.Delete(directory, recursive: true);

    [Fact]
    public void Tokens_are_those_of_another_implementation()
    {
        Random random = new(3);
        string letters = new([.. Enumerable.Range(0, 2000).Select(_ => "abcdefgh"[random.Next(8)])]);
        string anything = new([.. Enumerable.Range(0, 5000).Select(_ => (char)random.Next(32, 0xD7FF))]);
        string[] texts =
        [
            TextWindows.ReadBible(), letters, anything, new string('a', 3001), new string(' ', 777) + "x", new string('\n', 100),
            "naïve  \n\n\ttext…", "漢字 🙂 <|x|>",
            "one<|endoftext|>two<|endoftext|>", "don't we'll I'M 12345 3.14", "",
        ];
        foreach (string text in texts) Assert.Equal(Reference.EncodeToIds(text), Gpt2.Encode(text));
    }

    [Fact]
    public void A_long_text_without_breaks_takes_little_more_than_linear_time()
    {
        // A quadratic encoder takes an hour for it.
        string text = new('a', 2_000_000);
        IReadOnlyList<int> tokens = Gpt2.Encode(text);
        Assert.Equal(text, Gpt2.Decode(tokens));
        Assert.InRange(tokens.Count, 1, 1_000_000);
    }

    [Fact]
    public async Task Tokens_are_made_once_on_a_machine()
    {
        const string Text = "In the beginning God created the heaven and the earth.";
        IReadOnlyList<int> expected = Gpt2.Encode(Text);
        Task<IReadOnlyList<int>>[] workers = [.. Enumerable.Range(0, 8).Select(_ => Task.Run(() => TokenCache.Encode(Text, Gpt2, directory)))];
        Assert.All(await Task.WhenAll(workers), tokens => Assert.Equal(expected, tokens));
        string file = Assert.Single(Directory.GetFiles(directory), static path => !path.EndsWith(".lock", StringComparison.Ordinal));

        // What is there is taken, unless it cannot be.
        await File.WriteAllBytesAsync(file, MemoryMarshal.AsBytes<int>([7, 8]).ToArray());
        Assert.Equal([7, 8], TokenCache.Encode(Text, Gpt2, directory));
        await File.WriteAllBytesAsync(file, MemoryMarshal.AsBytes<int>([7, -8]).ToArray());
        Assert.Equal(expected, TokenCache.Encode(Text, Gpt2, directory));

        // Other texts push old ones out, and a folder that cannot be made is done without.
        for (int i = 0; i < 20; i++) TokenCache.Encode($"{Text} {i}", Gpt2, directory);
        Assert.InRange(Directory.GetFiles(directory).Length, 1, 20);
        Assert.Equal(expected, TokenCache.Encode(Text, Gpt2, Path.Combine(file, "below")));
    }

    [Fact]
    public async Task A_text_with_the_mark_of_UTF_16_is_refused_and_that_of_UTF_8_left_out()
    {
        string file = Path.Combine(directory, "text");
        string text = string.Concat(Enumerable.Repeat("Über den Wolken. ", 100));
        foreach (Encoding encoding in (Encoding[])[Encoding.Unicode, Encoding.BigEndianUnicode])
        {
            await File.WriteAllTextAsync(file, text, encoding);
            var error = Assert.Throws<InvalidDataException>(() => TextWindows.Load(file, TextTokenizer.Create("bytes"), 10));
            Assert.EndsWith("is not UTF-8: it begins with the mark of UTF-16; save it as UTF-8", error.Message, StringComparison.Ordinal);
        }

        await File.WriteAllTextAsync(file, text, Encoding.UTF8);
        using WorkloadData data = TextWindows.Load(file, TextTokenizer.Create("bytes"), 10);
        Assert.Equal([0xC3L, 0x9C, 'b'], data.Train.Features[0, ..3].data<long>().ToArray());
    }

    [Theory]
    [InlineData(0)]
    [InlineData(int.MaxValue)]
    public void As_many_tokens_as_nobody_can_wait_for_are_refused(int tokens)
    {
        string message = Assert.Throws<ArgumentException>(new GenerationOptions { Tokens = tokens }.Validate).Message;
        Assert.Contains("from 1 to 1000000", message, StringComparison.Ordinal);
    }
}

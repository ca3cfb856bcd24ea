using System.Text;
using Microsoft.ML.Tokenizers;

namespace Skein.Workloads.Language;

/// <summary>Text as numbers, and back. Immutable; thread-safe.</summary>
public abstract class TextTokenizer
{
    private protected TextTokenizer() { }

    /// <summary>What <see cref="Create"/> knows.</summary>
    public static IReadOnlyList<string> Names { get; } = ["bytes", "gpt2"];

    /// <summary>The number of different tokens: they are from 0 to one less.</summary>
    public abstract int Vocabulary { get; }

    /// <summary>
    /// <c>bytes</c>: the 256 bytes of UTF-8. <c>gpt2</c>: byte-pair encoding (Sennrich, Haddow and Birch 2016) with the 50,257 tokens of
    /// GPT-2; part of the program.
    /// </summary>
    /// <exception cref="ArgumentException">There is no such tokenizer; the message lists them.</exception>
    public static TextTokenizer Create(string name) => name switch
    {
        "bytes" => new ByteTokenizer(),
        "gpt2" => new Gpt2Tokenizer(),
        _ => throw new ArgumentException($"unknown tokenizer '{name}'; choose one of: {string.Join(", ", Names)}"),
    };

    /// <summary>What <see cref="Create"/> knows it by.</summary>
    public abstract string Name { get; }

    /// <summary>
    /// The tokens of <paramref name="text"/>; joined and decoded they are the text again. Takes little more than linear time.
    /// </summary>
    public abstract IReadOnlyList<int> Encode(string text);

    /// <summary>The text of <paramref name="tokens"/>. Bytes that make no character become U+FFFD.</summary>
    /// <exception cref="ArgumentException">A token is none of the vocabulary.</exception>
    public string Decode(IReadOnlyList<int> tokens)
    {
        ArgumentNullException.ThrowIfNull(tokens);
        foreach (int token in tokens)
        {
            if (token < 0 || token >= Vocabulary) throw new ArgumentException($"{token} is none of the {Vocabulary:N0} tokens", nameof(tokens));
        }

        return Join(tokens);
    }

    private protected abstract string Join(IReadOnlyList<int> tokens);

    private sealed class ByteTokenizer : TextTokenizer
    {
        public override string Name => "bytes";

        public override int Vocabulary => 256;

        public override IReadOnlyList<int> Encode(string text) => Array.ConvertAll(Encoding.UTF8.GetBytes(text), static value => (int)value);

        private protected override string Join(IReadOnlyList<int> tokens) => Encoding.UTF8.GetString([.. tokens.Select(static token => (byte)token)]);
    }

    private sealed class Gpt2Tokenizer : TextTokenizer
    {
        // It cuts texts into words and joins tokens, but its encoder is quadratic in the length of a word.
        private static readonly Lazy<TiktokenTokenizer> Bpe = new(static () => TiktokenTokenizer.CreateForModel("gpt2"));
        private static readonly Lazy<IReadOnlyDictionary<ReadOnlyMemory<byte>, int>> Ranks = new(BytePairEncoder.ReadGpt2);

        public override string Name => "gpt2";

        public override int Vocabulary => 50_257;

        public override IReadOnlyList<int> Encode(string text)
        {
            var encoder = new BytePairEncoder(Ranks.Value);
            var tokens = new List<int>();
            foreach ((int start, int length) in Bpe.Value.PreTokenizer!.PreTokenize(text)) encoder.Encode(text.AsSpan(start, length), tokens);
            return tokens;
        }

        private protected override string Join(IReadOnlyList<int> tokens) => Bpe.Value.Decode(tokens);
    }
}

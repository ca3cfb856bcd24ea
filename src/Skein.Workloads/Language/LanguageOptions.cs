namespace Skein.Workloads.Language;

/// <summary>What a language model reads, and how. Immutable; a null leaves the choice to the model.</summary>
public sealed record LanguageOptions
{
    /// <summary>The largest text in bytes: every worker keeps all its tokens, eight bytes each.</summary>
    public const long LongestText = 64 << 20;

    private const int LongestContext = 1 << 16;

    /// <summary>A file of UTF-8 text. Null: the King James Bible, which is always at hand.</summary>
    public string? TextFile { get; init; }

    /// <summary><c>bytes</c> or <c>gpt2</c> (<see cref="TextTokenizer.Create"/>). Null: as suits the model.</summary>
    public string? Tokenizer { get; init; }

    /// <summary>Tokens in a sample, from 1 to 65,536. Null: as suits the model.</summary>
    public int? Context { get; init; }

    /// <exception cref="ArgumentException">The tokenizer is unknown, the context out of range, or the file missing or too large.</exception>
    internal void Validate()
    {
        if (Tokenizer is not null && !TextTokenizer.Names.Contains(Tokenizer)) throw new ArgumentException($"unknown tokenizer '{Tokenizer}'; choose one of: {string.Join(", ", TextTokenizer.Names)}");
        if (Context is < 1 or > LongestContext) throw new ArgumentException($"a context of {Context} tokens is out of range: give 1 to {LongestContext}");
        if (TextFile is null) return;
        if (Directory.Exists(TextFile)) throw new ArgumentException($"the text {TextFile} is a folder: give a file");
        var file = new FileInfo(TextFile);
        if (!file.Exists) throw new ArgumentException($"there is no text {TextFile}");
        if (file.Length > LongestText) throw new ArgumentException($"the text {TextFile} has {file.Length:N0} bytes, more than {LongestText:N0}: train on a part of it");
    }
}

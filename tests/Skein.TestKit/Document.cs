using System.Text.RegularExpressions;

namespace Skein.TestKit;

/// <summary>A page of the documentation, with what in it is code. CONTRIBUTING.md says how blocks are marked.</summary>
public sealed partial class Document
{
    private Document(string path, string text)
    {
        Path = path;
        Blocks = [.. Block().Matches(text).Select(match => new CodeBlock(
            $"{path}:{1 + text.AsSpan(0, match.Groups["fence"].Index).Count('\n')}",
            match.Groups["language"].Value,
            match.Groups["mark"].Success ? match.Groups["mark"].Value : null,
            match.Groups["code"].Value))];
        InlineCode = [.. Inline().Matches(Block().Replace(text, "")).Select(match => match.Groups[1].Value)];
    }

    /// <summary>README.md, CONTRIBUTING.md and the pages of docs/.</summary>
    public static IReadOnlyList<Document> All { get; } =
    [
        .. ((string[])["README.md", "CONTRIBUTING.md"])
            .Concat(Directory.GetFiles(Repository.PathOf("docs"), "*.md", SearchOption.AllDirectories)
                .Select(file => System.IO.Path.GetRelativePath(Repository.Root, file)).Order(StringComparer.Ordinal))
            .Select(path => new Document(path, File.ReadAllText(Repository.PathOf(path)))),
    ];

    /// <summary>The blocks of all pages in one language.</summary>
    public static IEnumerable<CodeBlock> BlocksOf(string language) =>
        All.SelectMany(static document => document.Blocks).Where(block => block.Language == language);

    /// <summary>From the repository's root.</summary>
    public string Path { get; }

    /// <summary>Its fenced blocks, in order.</summary>
    public IReadOnlyList<CodeBlock> Blocks { get; }

    /// <summary>What stands between backticks outside of blocks.</summary>
    public IReadOnlyList<string> InlineCode { get; }

    [GeneratedRegex(
        """^(?:<!-- (?<mark>(?:continues|example)[^\n]*?) -->\n)?(?<fence>```)(?<language>[a-z]*)\n(?<code>.*?)^```$""",
        RegexOptions.Singleline | RegexOptions.Multiline)]
    private static partial Regex Block();

    [GeneratedRegex("`([^`\n]+)`")]
    private static partial Regex Inline();
}

/// <summary>A fenced block of a page.</summary>
/// <param name="Place">Page and line of its first fence.</param>
/// <param name="Language">What the fence says.</param>
/// <param name="Mark">The comment on the line above it: <c>continues</c> or <c>example: …</c>; null for none.</param>
/// <param name="Code">The lines between the fences.</param>
public sealed record CodeBlock(string Place, string Language, string? Mark, string Code)
{
    /// <summary>Whether it goes on from the last block of its page that does not.</summary>
    public bool Continues => Mark == "continues";

    /// <summary>Whether it shows what is not run here, with the reason.</summary>
    public bool IsExample => Mark?.StartsWith("example: ", StringComparison.Ordinal) == true;
}

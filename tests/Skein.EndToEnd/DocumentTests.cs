using System.Text.RegularExpressions;
using Skein.TestKit;
using Skein.Training;

namespace Skein.EndToEnd;

/// <summary>What documents name exists, their tables are complete, and their blocks are of kinds that tests look at.</summary>
public sealed partial class DocumentTests
{
    [Fact]
    public void Files_that_a_document_names_exist()
    {
        Assert.Empty(
            from document in Document.All
            from Match name in NamedFile().Matches(ReadText(document.Path))
            where !Path.Exists(Repository.PathOf(name.Groups[1].Value))
            select $"{document.Path}: {name.Groups[1].Value}");
    }

    [Fact]
    public void Links_between_documents_lead_to_a_file_and_a_heading()
    {
        Assert.Empty(
            from document in Document.All
            from Match link in Link().Matches(ReadText(document.Path))
            where !Leads(document, link)
            select $"{document.Path}: {link.Value}");
    }

    [Fact]
    public void Every_block_of_the_documents_is_of_a_kind_that_a_test_looks_at_and_marked_for_it()
    {
        string[] wrong =
        [
            .. Document.All.SelectMany(static document => document.Blocks).Where(static block => block.Language switch
            {
                "csharp" => block.Mark is not null && !block.Continues,
                "sh" => block.Mark is not null && !block.IsExample,
                "text" or "mermaid" or "xml" => block.Mark is not null,
                _ => true,
            }).Select(static block => $"{block.Place}: {block.Language} {block.Mark}"),
            .. Document.All.Where(static document => 2 * document.Blocks.Count != Fence().Count(ReadText(document.Path)))
                .Select(static document => $"{document.Path}: a block that is indented or not closed"),
        ];
        Assert.Empty(wrong);
    }

    [Fact]
    public void Every_variable_of_the_environment_that_the_sources_name_is_in_the_table_and_no_other()
    {
        IEnumerable<string> named = Directory.GetFiles(Repository.PathOf("src"), "*.cs", SearchOption.AllDirectories)
            .SelectMany(static file => Variable().Matches(File.ReadAllText(file)).Select(static match => match.Groups[1].Value));
        Assert.Equal(named.Distinct().Order(StringComparer.Ordinal), Rows("your-program.md", "Environment").Order(StringComparer.Ordinal));
    }

    [Fact]
    public void Every_option_of_the_trainer_is_in_its_table_and_no_other()
    {
        IEnumerable<string> options = typeof(Trainer).GetProperties()
            .Where(static property => property.SetMethod is { IsPublic: true })
            .Select(static property => property.Name);
        Assert.Equal(options.Order(StringComparer.Ordinal), Rows("trainer.md", "Options").Order(StringComparer.Ordinal));
    }

    private static bool Leads(Document from, Match link)
    {
        string file = link.Groups["file"].Value, heading = link.Groups["heading"].Value;
        string target = file.Length == 0 ? from.Path : Path.Combine(Path.GetDirectoryName(from.Path)!, file);
        if (!Path.Exists(Repository.PathOf(target))) return false;
        return heading.Length == 0 || Heading().Matches(ReadText(target)).Any(match => NameOf(match.Groups[1].Value) == heading);
    }

    // As GitHub names headings.
    private static string NameOf(string heading) => NoLetter().Replace(heading.ToLowerInvariant(), "").Replace(' ', '-');

    /// <summary>The code in the first columns of the table under a heading.</summary>
    private static IEnumerable<string> Rows(string page, string heading)
    {
        string section = ReadText($"docs/{page}").Split($"\n## {heading}\n")[1].Split("\n## ")[0];
        IEnumerable<string> rows = section.Split('\n').Where(static line => line.StartsWith('|')).Skip(1);
        IEnumerable<string> cells = rows.Select(static row => row.Split('|')[1]);
        return cells.SelectMany(static cell => Code().Matches(cell).Select(static match => match.Groups[1].Value));
    }

    private static string ReadText(string path) => File.ReadAllText(Repository.PathOf(path));

    [GeneratedRegex("^ *```", RegexOptions.Multiline)]
    private static partial Regex Fence();

    [GeneratedRegex(@"(?:`|\]\()((?:src|tests|docs|samples|benchmarks|data)/[A-Za-z0-9_./-]+)(?:`|\))")]
    private static partial Regex NamedFile();

    [GeneratedRegex(@"\]\((?<file>[^)#\s:]*)(?:#(?<heading>[^)\s]+))?\)")]
    private static partial Regex Link();

    [GeneratedRegex("^#+ (.+)$", RegexOptions.Multiline)]
    private static partial Regex Heading();

    [GeneratedRegex(@"[^\w\- ]")]
    private static partial Regex NoLetter();

    [GeneratedRegex("\"((?:SKEIN|OMPI|PMI|MPI|SLURM|MASTER|LOCAL|OMP|MALLOC|XDG)_[A-Z_]+|RANK|WORLD_SIZE)\"")]
    private static partial Regex Variable();

    [GeneratedRegex("`([^`]+)`")]
    private static partial Regex Code();
}

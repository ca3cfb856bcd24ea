using System.Text.RegularExpressions;
using System.Xml.Linq;
using Skein.TestKit;

namespace Skein.EndToEnd;

/// <summary>What the documents say of the repository is true of it.</summary>
public sealed partial class RepositoryTests
{
    // DESIGN: which project may depend on which, itself or through others.
    private static readonly Dictionary<string, string[]> Allowed = new()
    {
        ["Skein.Collectives"] = [],
        ["Skein.ParameterServer"] = ["Skein.Collectives"],
        ["Skein.Training"] = ["Skein.Collectives", "Skein.ParameterServer"],
        ["Skein.Hosting"] = ["Skein.Collectives", "Skein.ParameterServer"],
        ["Skein.Workloads"] = ["Skein.Training"],
        ["Skein.Workloads.LectureRatings"] = [],
        ["Skein.Templates"] = [],
        ["Skein.Cli"] = ["Skein.Collectives", "Skein.ParameterServer", "Skein.Training", "Skein.Hosting", "Skein.Workloads", "Skein.Workloads.LectureRatings"],
    };

    [Fact]
    public void Dependencies_point_one_way()
    {
        string[] projects = [.. Directory.GetDirectories(Repository.PathOf("src")).SelectMany(folder => Directory.GetFiles(folder, "*.csproj"))];
        Assert.Equal(Allowed.Keys.Order(), projects.Select(path => Path.GetFileNameWithoutExtension(path)).Order());
        foreach (string project in projects)
        {
            IEnumerable<string> references = XDocument.Load(project).Descendants("ProjectReference")
                .Select(reference => Path.GetFileNameWithoutExtension(reference.Attribute("Include")!.Value.Replace('\\', '/')));
            Assert.Empty(references.Except(Allowed[Path.GetFileNameWithoutExtension(project)]));
        }
    }

    [Theory]
    [InlineData("docs/architecture.md")]
    [InlineData("docs/algorithms.md")]
    [InlineData("README.md")]
    [InlineData("CONTRIBUTING.md")]
    public void Files_that_a_document_names_exist(string document)
    {
        string text = File.ReadAllText(Repository.PathOf(document));
        string[] missing = [.. NamedFile().Matches(text).Select(match => match.Groups[1].Value).Distinct()
            .Where(path => !Path.Exists(Repository.PathOf(path)))];
        Assert.Empty(missing);
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
            .. Document.All.Where(static document => 2 * document.Blocks.Count != Fence().Count(File.ReadAllText(Repository.PathOf(document.Path))))
                .Select(static document => $"{document.Path}: a block that is indented or not closed"),
        ];
        Assert.Empty(wrong);
    }

    [GeneratedRegex("^ *```", RegexOptions.Multiline)]
    private static partial Regex Fence();

    [GeneratedRegex(@"(?:`|\]\()((?:src|tests|docs|samples|benchmarks|data)/[A-Za-z0-9_./-]+)(?:`|\))")]
    private static partial Regex NamedFile();
}

using System.Text.RegularExpressions;
using System.Xml.Linq;

namespace Skein.EndToEnd;

/// <summary>What the documents say of the repository is true of it.</summary>
public sealed partial class RepositoryTests
{
    internal static readonly string Root = FindRoot();

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
        string[] projects = [.. Directory.GetDirectories(Path.Combine(Root, "src")).SelectMany(folder => Directory.GetFiles(folder, "*.csproj"))];
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
        string text = File.ReadAllText(Path.Combine(Root, document));
        string[] missing = [.. NamedFile().Matches(text).Select(match => match.Groups[1].Value).Distinct()
            .Where(path => !Path.Exists(Path.Combine(Root, path)))];
        Assert.Empty(missing);
    }

    private static string FindRoot()
    {
        string? folder = AppContext.BaseDirectory;
        while (folder is not null && !File.Exists(Path.Combine(folder, "Skein.slnx"))) folder = Path.GetDirectoryName(folder);
        return folder ?? throw new InvalidOperationException("the tests do not run inside the repository");
    }

    [GeneratedRegex(@"(?:`|\]\()((?:src|tests|docs|samples|benchmarks|data)/[A-Za-z0-9_./-]+)(?:`|\))")]
    private static partial Regex NamedFile();
}

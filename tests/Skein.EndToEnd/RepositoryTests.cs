using System.Xml.Linq;
using Skein.TestKit;

namespace Skein.EndToEnd;

/// <summary>What the documents say of the repository is true of it.</summary>
public sealed class RepositoryTests
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
}

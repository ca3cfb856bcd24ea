using System.IO.Compression;
using System.Xml.Linq;

namespace Skein.EndToEnd.Packages;

/// <summary>What is in the packages, and what they say of themselves.</summary>
[Collection(nameof(PackageFeed))]
public sealed class PackageTests(PackageFeed feed)
{
    [Fact]
    public void Every_package_says_what_it_is_and_under_which_licence()
    {
        var licences = new Dictionary<string, string>
        {
            ["Skein.Cli"] = "MIT AND CC-BY-4.0 AND GPL-2.0-or-later AND Apache-2.0 AND BSD-3-Clause",
            ["Skein.Collectives"] = "MIT",
            ["Skein.Hosting"] = "MIT",
            ["Skein.ParameterServer"] = "MIT",
            ["Skein.Templates"] = "MIT",
            ["Skein.Training"] = "MIT",
            ["Skein.Workloads"] = "MIT AND CC-BY-4.0",
            ["Skein.Workloads.LectureRatings"] = "GPL-2.0-or-later",
        };
        string[] packages = Directory.GetFiles(feed.Folder, "Skein.*.nupkg");
        Assert.Equal(licences.Keys.Order(), packages.Select(path => Value(PackageFeed.Metadata(path), "id")).Order());
        foreach (string path in packages)
        {
            XElement metadata = PackageFeed.Metadata(path);
            string id = Value(metadata, "id");
            Assert.Equal(licences[id], Value(metadata, "license"));
            Assert.Equal("README.md", Value(metadata, "readme"));
            Assert.Equal("icon.png", Value(metadata, "icon"));
            Assert.Contains("torchsharp", Value(metadata, "tags"), StringComparison.Ordinal);
            Assert.NotEqual("", Value(metadata, "description"));
            XElement repository = metadata.Elements().Single(element => element.Name.LocalName == "repository");
            Assert.Matches("^https://.+", repository.Attribute("url")!.Value);
            Assert.Matches("^[0-9a-f]{40}$", repository.Attribute("commit")!.Value);

            using ZipArchive package = ZipFile.OpenRead(path);
            Assert.NotNull(package.GetEntry("README.md"));
            Assert.NotNull(package.GetEntry("icon.png"));
            Assert.Equal(licences[id] != "MIT", package.GetEntry("THIRD-PARTY-NOTICES.txt") is not null);
            if (id != "Skein.Templates") Assert.True(HasSymbols(Path.ChangeExtension(path, "snupkg"), id), $"{id} has no symbols");
        }
    }

    [Fact]
    public void The_tool_is_small_and_names_what_it_carries_of_others()
    {
        string path = Directory.GetFiles(feed.Folder, "Skein.Cli.*.nupkg").Single();
        Assert.InRange(new FileInfo(path).Length, 1_000_000, 20_000_000);
        using ZipArchive package = ZipFile.OpenRead(path);
        Assert.DoesNotContain(package.Entries, entry => entry.Name.Contains("torch_cpu", StringComparison.Ordinal));
        using var reader = new StreamReader(package.GetEntry("THIRD-PARTY-NOTICES.txt")!.Open());
        string notices = reader.ReadToEnd();
        string[] unnamed = [.. package.Entries.Select(entry => entry.Name)
            .Where(name => name.EndsWith(".dll", StringComparison.Ordinal) && !name.StartsWith("Skein.", StringComparison.Ordinal))
            .Select(name => Path.GetFileNameWithoutExtension(name))
            // TorchSharp's own libraries.
            .Where(name => name != "LibTorchSharp" && !notices.Contains(name, StringComparison.Ordinal))];
        Assert.Empty(unnamed);

        // Nothing of this machine.
        using var settings = new StreamReader(package.Entries.Single(entry => entry.Name == "Skein.Cli.runtimeconfig.json").Open());
        Assert.DoesNotContain(Path.GetPathRoot(feed.Folder) + "root", settings.ReadToEnd(), StringComparison.Ordinal);
    }

    [Fact]
    public void Libraries_need_the_plain_runtime_only()
    {
        foreach (string id in (string[])["Skein.Collectives", "Skein.ParameterServer", "Skein.Training", "Skein.Workloads"])
        {
            XElement metadata = PackageFeed.Metadata(Directory.GetFiles(feed.Folder, $"{id}.{PackageFeed.Version}.nupkg").Single());
            Assert.DoesNotContain("AspNetCore", metadata.ToString(), StringComparison.Ordinal);
        }
    }

    private static string Value(XElement metadata, string name) =>
        metadata.Elements().SingleOrDefault(element => element.Name.LocalName == name)?.Value ?? "";

    private static bool HasSymbols(string path, string id)
    {
        using ZipArchive symbols = ZipFile.OpenRead(path);
        return symbols.Entries.Any(entry => entry.Name == $"{id}.pdb");
    }
}

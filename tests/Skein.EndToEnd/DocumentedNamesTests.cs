using System.Runtime.CompilerServices;
using System.Text.RegularExpressions;
using Skein.TestKit;
using Skein.Training;

namespace Skein.EndToEnd;

/// <summary>Tables in the documents are complete.</summary>
public sealed partial class DocumentedNamesTests
{
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
            .Where(static property => property.SetMethod is { IsPublic: true } set && set.ReturnParameter.GetRequiredCustomModifiers().Contains(typeof(IsExternalInit)))
            .Select(static property => property.Name);
        Assert.Equal(options.Order(StringComparer.Ordinal), Rows("trainer.md", "Options").Order(StringComparer.Ordinal));
    }

    /// <summary>The code in the first columns of the table under a heading.</summary>
    private static IEnumerable<string> Rows(string page, string heading)
    {
        string text = File.ReadAllText(Repository.PathOf($"docs/{page}"));
        string section = text.Split($"\n## {heading}\n")[1].Split("\n## ")[0];
        return section.Split('\n').Where(static line => line.StartsWith('|')).Skip(1).SelectMany(static line => Code().Matches(line.Split('|')[1]).Select(static match => match.Groups[1].Value));
    }

    [GeneratedRegex("\"((?:SKEIN|OMPI|PMI|MPI|SLURM|MASTER|LOCAL|OMP|MALLOC|XDG)_[A-Z_]+|RANK|WORLD_SIZE)\"")]
    private static partial Regex Variable();

    [GeneratedRegex("`([^`]+)`")]
    private static partial Regex Code();
}

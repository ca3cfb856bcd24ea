using System.Text.RegularExpressions;

namespace Skein.EndToEnd;

public sealed partial class SampleTests
{
    [Fact]
    public void The_readmes_example_is_the_sample() =>
        Assert.Equal(
            File.ReadAllText(Path.Combine(RepositoryTests.Root, "samples/QuickStart/Program.cs")),
            Example().Match(File.ReadAllText(Path.Combine(RepositoryTests.Root, "README.md"))).Groups["code"].Value);

    [Fact]
    public void The_page_on_parameter_servers_shows_the_sample() =>
        Assert.Equal(
            File.ReadAllText(Path.Combine(RepositoryTests.Root, "samples/ParameterServers/Program.cs")),
            Example().Match(File.ReadAllText(Path.Combine(RepositoryTests.Root, "docs/parameter-server.md"))).Groups["code"].Value);

    [Fact]
    public async Task The_sample_trains_on_two_ranks()
    {
        var (code, output, errors) = await SkeinProcess.RunAsync(
            "launch", "-n", "2", "--", "dotnet", Path.Combine(AppContext.BaseDirectory, "QuickStart.dll"));
        Assert.True(code == 0, string.Join('\n', errors));
        var result = Result().Match(Assert.Single(output));
        Assert.True(result.Success, output[0]);
        Assert.True(double.Parse(result.Groups["accuracy"].Value) >= 0.9, output[0]);
    }

    [GeneratedRegex("```csharp\n(?<code>.*?)```", RegexOptions.Singleline)]
    private static partial Regex Example();

    [GeneratedRegex(@"^\[0\] 2 ranks, accuracy (?<accuracy>[0-9.]+)$")]
    private static partial Regex Result();
}

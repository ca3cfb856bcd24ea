using System.Globalization;
using System.Text.RegularExpressions;
using Skein.TestKit;

namespace Skein.EndToEnd;

/// <summary>The samples do what they say, with the same numbers on any number of ranks.</summary>
public sealed partial class SampleTests
{
    [Theory]
    [InlineData("README.md", "QuickStart")]
    [InlineData("docs/parameter-server.md", "ParameterServers")]
    public void A_documents_example_is_the_sample(string document, string sample) =>
        Assert.Contains(
            File.ReadAllText(Repository.PathOf($"samples/{sample}/Program.cs")),
            Document.All.Single(page => page.Path == document).Blocks.Select(static block => block.Code));

    [Fact]
    public async Task The_quick_start_trains_on_two_ranks()
    {
        string line = await RunAsync("QuickStart", ranks: 2);
        Assert.StartsWith("2 ranks, ", line);
        Assert.InRange(Numbers(line)[1], 0.9, 1);
    }

    [Fact]
    public Task A_loop_of_ones_own_ends_with_the_same_numbers_on_one_rank_and_on_several() =>
        HasEqualNumbersAsync("OwnLoop", ("loss", 0, 0.25, 0.0001), ("accuracy", 0.97, 1, 0.001));

    // The rents are made up of the other columns and a deviation of 25.
    [Fact]
    public Task Data_from_a_file_give_the_same_numbers_on_one_rank_and_on_several() =>
        HasEqualNumbersAsync("OwnData", ("flats", 96, 96, 0), ("error", 20, 32, 0.01));

    /// <summary>
    /// The numbers that a sample says after that of its ranks lie in a range, and are the same on any number of ranks but for the last
    /// digit printed.
    /// </summary>
    private static async Task HasEqualNumbersAsync(string sample, params (string Name, double From, double To, double Digit)[] expected)
    {
        double[] alone = Numbers(await RunAsync(sample, ranks: 1));
        foreach (int ranks in new[] { 2, 3 })
        {
            double[] shared = Numbers(await RunAsync(sample, ranks));
            Assert.Equal(ranks, shared[0]);
            Assert.All(expected, (number, i) => Assert.Equal(alone[i + 1], shared[i + 1], number.Digit * 1.01));
        }

        Assert.All(expected, (number, i) => Assert.InRange(alone[i + 1], number.From, number.To));
    }

    private static async Task<string> RunAsync(string sample, int ranks)
    {
        string[] program = ["dotnet", PathOf(sample)];
        await using var process = ranks == 1
            ? SkeinProcess.StartProgram(program[0], [], program[1..])
            : SkeinProcess.Start(["launch", "-n", $"{ranks}", "--", .. program]);
        int code = await process.ExitAsync();
        Assert.True(code == 0, string.Join('\n', process.Errors));
        return Rank().Replace(Assert.Single(process.Output), "");
    }

    internal static string PathOf(string sample) => Path.Combine(AppContext.BaseDirectory, $"{sample}.dll");

    internal static double[] Numbers(string line) =>
        [.. Number().Matches(line).Select(static match => double.Parse(match.Value, CultureInfo.InvariantCulture))];

    [GeneratedRegex(@"^\[\d+\] ")]
    private static partial Regex Rank();

    [GeneratedRegex(@"\d+(\.\d+)?")]
    private static partial Regex Number();
}

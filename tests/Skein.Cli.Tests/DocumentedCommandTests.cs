using System.CommandLine;
using Skein.Cli.Bench;
using Skein.Cli.Plan;
using Skein.Cli.Train;
using Skein.Hosting;
using Skein.TestKit;

namespace Skein.Cli.Tests;

/// <summary>What the documents say can be typed, the command understands. Skein.EndToEnd runs what takes seconds.</summary>
public sealed class DocumentedCommandTests
{
    private static readonly string[] Names = ["skein", "./skein"];

    // The documents name files as they lie in the checkout.
    public DocumentedCommandTests() => Environment.CurrentDirectory = Repository.Root;

    /// <summary>Place and words of each command in a block.</summary>
    public static TheoryData<string, string[]> Commands
    {
        get
        {
            var commands = new TheoryData<string, string[]>();
            foreach (CodeBlock block in Document.BlocksOf("sh"))
            {
                foreach (string[] words in ShellCommand.Read(block.Code))
                {
                    if (words.Any(Names.Contains)) commands.Add(block.Place, words);
                }
            }

            return commands;
        }
    }

    /// <summary>Page and command of what stands in the text.</summary>
    public static TheoryData<string, string> Mentions
    {
        get
        {
            var mentions = new TheoryData<string, string>();
            foreach (Document document in Document.All)
            {
                IEnumerable<string> commands = document.InlineCode.Where(static code => Names.Contains(code.Split(' ')[0]));
                foreach (string command in commands.Distinct()) mentions.Add(document.Path, command);
            }

            return mentions;
        }
    }

    [Theory]
    [MemberData(nameof(Commands))]
    public void A_command_that_a_document_shows_is_accepted_and_its_numbers_fit_together(string place, string[] words)
    {
        int? ranks = null;
        for (int i = 0; i < words.Length; i++)
        {
            // One command may start others: skein launch … -- ./skein train …
            if (Names.Contains(words[i])) ranks = Check($"{place}: {string.Join(' ', words)}", words[(i + 1)..], ranks);
        }
    }

    [Theory]
    [MemberData(nameof(Mentions))]
    public void A_command_that_a_text_mentions_exists_and_has_the_options(string page, string mention)
    {
        Command command = SkeinCommand.Create();
        var known = new HashSet<string>(NamesOf(command));
        foreach (string word in mention.Split(' ').Skip(1).Select(static word => word.Trim('[', ']')))
        {
            if (word == "--") break;
            if (command.Subcommands.FirstOrDefault(next => next.Name == word) is { } subcommand)
            {
                command = subcommand;
                known.UnionWith(NamesOf(command));
            }

            if (word.StartsWith('-')) Assert.True(known.Contains(word), $"{page}: `{mention}`: {command.Name} has no option {word}");
        }

        Assert.True(command is not RootCommand || !mention.Contains(' '), $"{page}: `{mention}` names no command");
    }

    /// <returns>The number of ranks that the command starts programs of others as; null for none.</returns>
    private static int? Check(string what, string[] arguments, int? ranks)
    {
        ParseResult parsed = SkeinCommand.Create().Parse(arguments);
        Assert.True(parsed.Errors.Count == 0, $"{what}: {string.Join("; ", parsed.Errors)}");
        switch (parsed.CommandResult.Command.Name)
        {
            case "train":
                TrainOptions options = TrainSyntax.Read(parsed);
                TrainPlan.Create(options, ranks ?? options.Workers);
                break;
            case "plan":
                PlanSyntax.Read(parsed);
                break;
            case "bench":
                BenchOptions.Read(parsed);
                break;
            case "launch":
                LaunchOptions launch = LaunchCommand.ReadOptions(parsed);
                return launch.Nodes * launch.ProcessesPerNode;
        }

        return null;
    }

    private static IEnumerable<string> NamesOf(Command command) =>
        command.Options.SelectMany(static option => option.Aliases.Append(option.Name));
}

using System.Text;

namespace Skein.Cli.Tests;

/// <summary>Commands as somebody types them into a shell; as much of its grammar as the documents use.</summary>
internal static class ShellCommand
{
    /// <summary>The words of each command, one command a line; comments and assignments of variables left out.</summary>
    public static IReadOnlyList<string[]> Read(string script) =>
        [.. script.Replace("\\\n", " ", StringComparison.Ordinal).Split('\n').Select(Words).Where(static words => words.Length > 0)];

    private static string[] Words(string line)
    {
        var words = new List<string>();
        StringBuilder? word = null;
        char quote = '\0';
        foreach (char letter in line)
        {
            if (quote != '\0')
            {
                if (letter == quote) quote = '\0';
                else word!.Append(letter);
            }
            else if (letter is '"' or '\'')
            {
                quote = letter;
                word ??= new StringBuilder();
            }
            else if (char.IsWhiteSpace(letter))
            {
                if (word is not null) words.Add(word.ToString());
                word = null;
            }
            else if (letter == '#' && word is null)
            {
                break;
            }
            else
            {
                (word ??= new StringBuilder()).Append(letter);
            }
        }

        if (quote != '\0') throw new FormatException($"a quotation mark is not closed: {line}");
        if (word is not null) words.Add(word.ToString());
        return [.. words.SkipWhile(static word => word.Contains('=', StringComparison.Ordinal) && !word.StartsWith('-'))];
    }
}

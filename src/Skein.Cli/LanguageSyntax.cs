using System.CommandLine;
using Skein.Workloads;
using Skein.Workloads.Language;

namespace Skein.Cli;

/// <summary>The options of the workload <c>language-model</c>.</summary>
internal static class LanguageSyntax
{
    private static readonly Option<string?> Text = new("--text") { HelpName = "FILE", Description = "Train a language model on this UTF-8 text [default: the King James Bible]" };
    private static readonly Option<string?> Tokenizer = new("--tokenizer") { HelpName = "T", Description = "How a language model reads text: bytes or gpt2 [default: the model's]" };
    private static readonly Option<int?> Context = new("--context") { HelpName = "N", Description = "Tokens in a sample of a language model [default: the model's]" };

    public static IEnumerable<Option> All => [Text, Tokenizer, Context];

    public static LanguageOptions Read(ParseResult parsed) => new()
    {
        TextFile = parsed.GetValue(Text),
        Tokenizer = parsed.GetValue(Tokenizer),
        Context = parsed.GetValue(Context),
    };

    /// <summary>The workload with these options; with none of them it may be of any kind.</summary>
    /// <exception cref="UsageException">They make no sense, or the workload is no language model.</exception>
    public static Workload Apply(Workload workload, string model, LanguageOptions options)
    {
        if (workload.Language is null)
        {
            string? given = options.TextFile is not null ? Text.Name : options.Tokenizer is not null ? Tokenizer.Name : options.Context is not null ? Context.Name : null;
            return given is null ? workload : throw new UsageException($"{given} needs a language model; {workload.Name} is none");
        }

        try
        {
            return workload.WithLanguage(model, options);
        }
        catch (ArgumentException error)
        {
            throw new UsageException(CommandLine.Describe(error));
        }
    }
}

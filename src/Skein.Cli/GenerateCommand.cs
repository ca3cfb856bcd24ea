using System.CommandLine;
using System.Diagnostics;
using System.Text.Json;
using Skein.Cli.LibTorch;
using Skein.Cli.Train;
using Skein.Training.Checkpointing;
using Skein.Workloads;
using Skein.Workloads.Language;
using static TorchSharp.torch;

namespace Skein.Cli;

/// <summary><c>skein generate</c>: a text continued by a language model that <c>skein train</c> has left in a run directory.</summary>
internal static class GenerateCommand
{
    private static readonly GenerationOptions Defaults = new();
    private static readonly Argument<string> Run = new("RUN_DIR") { Description = "The run directory of a language model" };
    private static readonly Option<string> Prompt = new("--prompt") { HelpName = "TEXT", Description = "The text to continue", Required = true };
    private static readonly Option<int?> Tokens = new("--tokens") { HelpName = "N", Description = $"How many tokens to add [default: {Defaults.Tokens}]" };
    private static readonly Option<double?> Temperature = new("--temperature") { HelpName = "T", Description = $"How freely to choose; 0 always takes the likeliest token [default: {Defaults.Temperature}]" };
    private static readonly Option<int?> TopK = new("--top-k") { HelpName = "K", Description = "Choose among so many of the likeliest tokens [default: all]" };

    public static Command Create()
    {
        var command = new Command("generate", "Continues a text with a trained language model") { Run, Prompt, Tokens, Temperature, TopK };
        command.SetAction(GenerateAsync);
        return command;
    }

    private static async Task<int> GenerateAsync(ParseResult parsed, CancellationToken cancellationToken)
    {
        string prompt = parsed.GetRequiredValue(Prompt);
        if (prompt.Length == 0) throw new UsageException("--prompt is empty: give the text to continue");
        var options = new GenerationOptions
        {
            Tokens = parsed.GetValue(Tokens) ?? Defaults.Tokens,
            Temperature = parsed.GetValue(Temperature) ?? Defaults.Temperature,
            TopK = parsed.GetValue(TopK),
            Seed = parsed.GetValue(CommonOptions.Seed),
        };
        try
        {
            options.Validate();
        }
        catch (ArgumentException error)
        {
            throw new UsageException(error.Message);
        }

        string directory = parsed.GetRequiredValue(Run);
        (Workload workload, string modelName) = ReadConfiguration(directory);
        string file = Path.Combine(directory, LanguageUsage.ModelFile);
        if (!File.Exists(file)) throw new UsageException($"{directory} has no {LanguageUsage.ModelFile}: its training has not come to its end");
        await LibTorchFetch.EnsureLoadedAsync();
        using nn.Module<Tensor, Tensor> model = workload.CreateModel(modelName, 0);
        SafeTensors.Load(file, model);
        var generator = new TextGenerator(model, TextTokenizer.Create(workload.Language!.Tokenizer!), workload.Language.Context!.Value);

        long start = Stopwatch.GetTimestamp();
        string text = generator.Generate(prompt, options);
        double seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
        Console.WriteLine(parsed.GetValue(CommonOptions.Json)
            ? JsonSerializer.Serialize(new { Prompt = prompt, Text = text, options.Tokens, Seconds = seconds, TokensPerSecond = options.Tokens / seconds }, TrainSummary.Json)
            : prompt + text);
        return 0;
    }

    /// <summary>What the run trained.</summary>
    private static (Workload Workload, string Model) ReadConfiguration(string directory)
    {
        string path = Path.Combine(directory, "config.json");
        if (!File.Exists(path)) throw new UsageException($"{directory} is no run: it has no config.json; give the run directory that skein train named");
        try
        {
            Configuration run = JsonSerializer.Deserialize<Configuration>(File.ReadAllBytes(path), TrainSummary.Json) ?? throw new JsonException("it holds nothing");
            Workload workload = Workload.Find(run.Workload) is { Language: not null } known && run.Language is not null
                ? known
                : throw new UsageException($"{directory} trained {run.Workload}, which is no language model: train one with skein train language-model");
            // The text was for training, and may be gone.
            return (workload.WithLanguage(run.Model, run.Language with { TextFile = null }), run.Model);
        }
        catch (Exception error) when (error is JsonException or ArgumentException)
        {
            throw new InvalidDataException($"{path} is damaged: {error.Message}", error);
        }
    }

    private sealed record Configuration(string Workload, string Model, LanguageOptions? Language);
}

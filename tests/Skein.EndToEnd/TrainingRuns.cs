using System.Collections.Concurrent;
using System.Text.Json;

[assembly: AssemblyFixture(typeof(Skein.EndToEnd.TrainingRuns))]

namespace Skein.EndToEnd;

/// <summary>Trainings that tests compare with each other, each done once, when the first of them asks.</summary>
public sealed class TrainingRuns : IDisposable
{
    public const int Context = 8;
    public const string TwoWorkers = "--workers 2 --transport shm --algorithm auto";

    /// <summary>Digits in batches that divide by every number of workers that is tried; the last of an epoch, the thirtieth, has 45 samples.</summary>
    public static readonly string[] FiftyOfDigits = ["digits", "--batch-size", "48", "--max-steps", "50"];

    // Twelve samples divide by every number of data-parallel workers that is tried, but not into five micro-batches.
    private static readonly string[] FiftyOfLanguage = ["language-model", "--context", $"{Context}", "--batch-size", "12", "--max-steps", "50"];

    private readonly string directory = Directory.CreateTempSubdirectory("skein-runs-").FullName;
    private readonly ConcurrentDictionary<string, Lazy<Task<JsonElement>>> results = [];
    private int count;

    public TrainingRuns()
    {
        Text = Path.Combine(directory, "text.txt");
        File.WriteAllText(Text, string.Concat(Enumerable.Range(0, 200).Select(static i => $"And God said, Let there be {i}: and there was {i}.\n")));
    }

    /// <summary>The text that the language model reads.</summary>
    public string Text { get; }

    public void Dispose() => Directory.Delete(directory, recursive: true);

    /// <summary>What fifty steps of the language model with these options led to; without any, on a single process.</summary>
    public Task<JsonElement> LanguageAsync(string options = "") => OnceAsync(Language(options));

    /// <summary>The same training of the language model once more.</summary>
    public Task<JsonElement> LanguageAgainAsync(string options) => AgainAsync(Language(options));

    /// <summary>What fifty steps of digits with these options led to; without any, on a single process.</summary>
    public Task<JsonElement> DigitsAsync(string options = "") => OnceAsync([.. FiftyOfDigits, .. Words(options)]);

    /// <summary>The same training of digits once more.</summary>
    public Task<JsonElement> DigitsAgainAsync(string options) => AgainAsync([.. FiftyOfDigits, .. Words(options)]);

    /// <summary>What a training led to.</summary>
    public Task<JsonElement> OnceAsync(params string[] arguments) =>
        results.GetOrAdd(string.Join(' ', arguments), _ => new Lazy<Task<JsonElement>>(() => AgainAsync(arguments))).Value;

    /// <summary>What a training leads to this time.</summary>
    public async Task<JsonElement> AgainAsync(params string[] arguments)
    {
        string run = Path.Combine(directory, $"run-{Interlocked.Increment(ref count)}");
        // Threads of one process that share their cores with other tests' would wait for each other most of the time.
        await using SkeinProcess process = SkeinProcess.Start([("OMP_NUM_THREADS", "1")], ["train", .. arguments, "--json", "--run-dir", run]);
        return await TrainingResult.OfAsync(process);
    }

    private string[] Language(string options) => [.. FiftyOfLanguage, "--text", Text, .. Words(options)];

    private static string[] Words(string options) => options.Split(' ', StringSplitOptions.RemoveEmptyEntries);
}

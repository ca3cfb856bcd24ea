using System.Text.Json;

namespace Skein.EndToEnd;

/// <summary>Trainings of fifty steps that tests compare with each other, each done when the first of them asks.</summary>
public sealed class ModelParallelRuns : IDisposable
{
    public const int Context = 8;

    // Twelve samples divide by every number of data-parallel workers that is tried, but not into five micro-batches. Digits' last batch
    // of an epoch, the thirtieth, has 45 samples, which do not divide by 2.
    private static readonly string[] Language = ["language-model", "--context", $"{Context}", "--batch-size", "12", "--max-steps", "50"];
    private static readonly string[] Digits = ["digits", "--batch-size", "48", "--max-steps", "50"];

    private readonly string directory = Directory.CreateTempSubdirectory("skein-model-parallel-").FullName;
    private readonly Dictionary<string, JsonElement> results = [];
    private int count;

    public ModelParallelRuns()
    {
        Text = Path.Combine(directory, "text.txt");
        File.WriteAllText(Text, string.Concat(Enumerable.Range(0, 200).Select(static i => $"And God said, Let there be {i}: and there was {i}.\n")));
    }

    /// <summary>The text that the language model reads.</summary>
    public string Text { get; }

    public void Dispose() => Directory.Delete(directory, recursive: true);

    /// <summary>What training the language model with these options led to; without any, on a single process.</summary>
    public Task<JsonElement> LanguageAsync(string options = "") => OnceAsync([.. Language, "--text", Text], options);

    /// <summary>What training digits with these options led to.</summary>
    public Task<JsonElement> DigitsAsync(string options = "") => OnceAsync(Digits, options);

    /// <summary>The same training of the language model once more.</summary>
    public Task<JsonElement> LanguageAgainAsync(string options) => RunAsync([.. Language, "--text", Text], options);

    private async Task<JsonElement> OnceAsync(string[] workload, string options)
    {
        string key = $"{workload[0]} {options}";
        if (!results.TryGetValue(key, out JsonElement result)) results.Add(key, result = await RunAsync(workload, options));
        return result;
    }

    private async Task<JsonElement> RunAsync(string[] workload, string options)
    {
        string run = Path.Combine(directory, $"run-{count++}");
        // Threads of one process that share their cores with other tests' would wait for each other most of the time.
        await using SkeinProcess process = SkeinProcess.Start(
            [("OMP_NUM_THREADS", "1")],
            ["train", .. workload, "--json", "--run-dir", run, .. options.Split(' ', StringSplitOptions.RemoveEmptyEntries)]);
        return await TrainingResult.OfAsync(process);
    }
}

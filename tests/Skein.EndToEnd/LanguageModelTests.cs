using System.Text.Json;

namespace Skein.EndToEnd;

/// <summary>A language model from its training to the text that it writes.</summary>
public sealed class LanguageModelTests(TrainingRuns runs) : IDisposable
{
    private readonly string directory = Directory.CreateTempSubdirectory("skein-language-").FullName;

    public void Dispose() => Directory.Delete(directory, recursive: true);

    [Fact]
    public async Task Any_number_of_workers_trains_the_same_model_and_it_writes()
    {
        JsonElement one = await runs.LanguageAsync(), two = await runs.LanguageAsync("--workers 2");
        TrainingResult.AssertSameLosses(one.Losses(), two.Losses());
        Assert.Equal(one.GetProperty("perplexity").GetDouble(), two.GetProperty("perplexity").GetDouble(), 0.01);
        foreach (JsonElement result in (JsonElement[])[one, two])
        {
            Assert.Equal(Math.Exp(result.GetProperty("test_loss").GetDouble()), result.GetProperty("perplexity").GetDouble(), 1e-9);
            Assert.Equal(TrainingRuns.Context * result.GetProperty("samples_per_second").GetDouble(), result.GetProperty("tokens_per_second").GetDouble(), 1e-6);
            Assert.InRange(result.GetProperty("model_flops_utilization").GetDouble(), 1e-4, 1);
            Assert.Equal(JsonValueKind.Null, result.GetProperty("test_accuracy").ValueKind);
        }

        JsonElement drawn = await GenerateAsync(two, "--seed", "3");
        Assert.Equal("And God said", drawn.GetProperty("prompt").GetString());
        Assert.Equal(20, drawn.GetProperty("tokens").GetInt32());
        Assert.Equal(20 / drawn.GetProperty("seconds").GetDouble(), drawn.GetProperty("tokens_per_second").GetDouble(), 1e-6);
        Assert.InRange(drawn.GetProperty("text").GetString()!.Length, 1, 20);
        Assert.Equal(drawn.GetProperty("text").GetString(), (await GenerateAsync(two, "--seed", "3")).GetProperty("text").GetString());
        // The likeliest tokens of both are alike, the models being so.
        string? likeliest = (await GenerateAsync(two, "--temperature", "0")).GetProperty("text").GetString();
        Assert.Equal(likeliest, (await GenerateAsync(one, "--top-k", "1")).GetProperty("text").GetString());
    }

    [Fact]
    public async Task What_makes_no_sense_is_one_line()
    {
        await AssertUsage("--tokenizer needs a language model; digits is none", "train", "digits", "--tokenizer", "bytes");
        await AssertUsage("unknown tokenizer 'words'", "train", "language-model", "--tokenizer", "words");
        await AssertUsage("there is no text", "train", "language-model", "--text", Path.Combine(directory, "none.txt"), "--workers", "2");
        await AssertUsage("no config.json", "generate", directory, "--prompt", "x");
        await AssertUsage("--prompt is empty", "generate", directory, "--prompt", "");
        await AssertUsage("temperature of -1", "generate", directory, "--prompt", "x", "--temperature", "-1");

        string run = (await runs.DigitsAsync()).RunDirectory();
        Assert.False(File.Exists(Path.Combine(run, "model.safetensors")));
        await AssertUsage("digits, which is no language model", "generate", run, "--prompt", "x");
    }

    private static async Task<JsonElement> GenerateAsync(JsonElement run, params string[] options)
    {
        (int code, string[] output, string[] errors) = await SkeinProcess.RunAsync(
            ["generate", run.RunDirectory(), "--prompt", "And God said", "--tokens", "20", "--json", .. options]);
        Assert.True(code == 0, string.Join('\n', errors));
        return TrainingResult.Parse(output[^1]);
    }

    private static async Task AssertUsage(string reason, params string[] arguments)
    {
        (int code, _, string[] errors) = await SkeinProcess.RunAsync(arguments);
        Assert.Equal(2, code);
        Assert.Contains(reason, Assert.Single(errors), StringComparison.Ordinal);
    }
}

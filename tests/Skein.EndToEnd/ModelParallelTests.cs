using System.Text.Json;

namespace Skein.EndToEnd;

/// <summary>Training by workers that divide the model, against the single process and against itself.</summary>
public sealed class ModelParallelTests(TrainingRuns runs)
{
    private const string Sharded = "--workers 2 --strategy sharded";
    private const string Pipeline = "--workers 2 --strategy pipeline";
    private const string Tensor = "--workers 2 --strategy tensor";
    private const string PipelineOfParts = "--workers 4 --strategy mesh --mesh pp=2,tp=2 --sequence-parallel --micro-batches 2";

    [Theory]
    [InlineData(Sharded)]
    [InlineData($"{Sharded} --zero 1")]
    [InlineData($"{Sharded} --zero 2 --offload-optimizer")]
    [InlineData($"{Sharded} --zero 3 --gradient-accumulation 2")]
    [InlineData(Pipeline)]
    [InlineData($"{Pipeline} --schedule gpipe --activation-checkpointing")]
    [InlineData($"{Pipeline} --schedule interleaved:2")]
    [InlineData($"{Pipeline} --schedule zero-bubble")]
    [InlineData(Tensor)]
    [InlineData($"{Tensor} --sequence-parallel")]
    [InlineData(PipelineOfParts)]
    [InlineData("--workers 4 --strategy mesh --mesh dp=2,pp=2 --zero 3 --schedule zero-bubble")]
    [InlineData("--workers 4 --strategy mesh --mesh dp=2,tp=2 --zero 3")]
    public async Task Workers_that_divide_a_transformer_see_the_losses_of_one(string options) =>
        AssertSame(await runs.LanguageAsync(), await runs.LanguageAsync(options));

    [Theory]
    [InlineData($"{Pipeline} --micro-batches 5")]
    [InlineData($"{Pipeline} --micro-batches 1 --split 1,5 --schedule zero-bubble")]
    [InlineData($"{Pipeline} --micro-batches 5 --split 1,2,1,2 --schedule interleaved:2")]
    [InlineData("--workers 3 --strategy pipeline --micro-batches 5 --split 1,4,1")]
    public async Task Uneven_stages_and_micro_batches_change_nothing(string options) =>
        AssertSame(await runs.LanguageAsync(), await runs.LanguageAsync(options));

    // Three layers, of which one has no parameters, and batches that leave the workers unequal shares at the end of an epoch.
    [Theory]
    [InlineData($"{Pipeline} --split 2,1 --micro-batches 7")]
    [InlineData("--workers 4 --strategy mesh --mesh dp=2,pp=2 --transport tcp")]
    [InlineData("--workers 4 --strategy mesh --mesh dp=2,tp=2")]
    [InlineData("--workers 4 --strategy mesh --mesh pp=2,tp=2 --split 2,1")]
    [InlineData("--workers 4 --strategy mesh --mesh dp=2,tp=2 --zero 2")]
    public async Task Workers_that_divide_a_perceptron_see_the_losses_of_one(string options)
    {
        JsonElement single = await runs.DigitsAsync(), job = await runs.DigitsAsync(options);
        AssertSame(single, job);
        Assert.Equal(single.GetProperty("test_accuracy").GetDouble(), job.GetProperty("test_accuracy").GetDouble(), 1e-2);
    }

    [Theory]
    [InlineData("--workers 4 --strategy mesh --mesh dp=2,pp=2 --transport tcp")]
    [InlineData("--workers 4 --strategy mesh --mesh dp=2,tp=2")]
    public async Task Copies_of_a_divided_model_send_fewer_bytes_with_compression(string options)
    {
        JsonElement whole = await runs.DigitsAsync(options), half = await runs.DigitsAsync($"{options} --compression fp16");
        Assert.Equal("fp16", half.GetProperty("compression").GetString());
        Assert.Equal(2, half.GetProperty("compression_ratio").GetDouble(), 0.1);
        Assert.Equal(0, half.GetProperty("skipped_steps").GetInt64());
        Assert.All(whole.Losses().Zip(half.Losses()), static pair => Assert.Equal(pair.First, pair.Second, 5e-3 * pair.First));
    }

    // A job ends well only if all its ranks have the same parameters.
    [Theory]
    [InlineData(Sharded)]
    [InlineData($"{Pipeline} --schedule zero-bubble")]
    [InlineData(PipelineOfParts)]
    public async Task The_same_command_gives_the_same_parameters_to_the_last_bit(string options)
    {
        string? checksum = (await runs.LanguageAsync(options)).Checksum();
        Assert.Matches("^[0-9a-f]{64}$", checksum);
        Assert.Equal(checksum, (await runs.LanguageAgainAsync(options)).Checksum());
    }

    [Theory]
    [InlineData("", null, null, null)]
    [InlineData($"{Sharded} --zero 1", "dp=2,pp=1,tp=1", 1, null)]
    [InlineData(Sharded, "dp=2,pp=1,tp=1", 3, null)]
    [InlineData(Tensor, "dp=1,pp=1,tp=2", null, null)]
    [InlineData(Pipeline, "dp=1,pp=2,tp=1", null, "1f1b")]
    [InlineData("--workers 4 --strategy mesh --mesh dp=2,pp=2 --zero 2", "dp=2,pp=2,tp=1", 2, "1f1b")]
    public async Task The_report_says_how_the_model_was_divided(string options, string? mesh, int? zero, string? schedule)
    {
        JsonElement result = await runs.LanguageAsync(options);
        Assert.Equal(mesh, result.GetProperty("mesh").GetString());
        Assert.Equal(zero, result.GetProperty("zero").Deserialize<int?>());
        Assert.Equal(schedule, result.GetProperty("schedule").GetString());
        Assert.Equal(Math.Exp(result.GetProperty("test_loss").GetDouble()), result.GetProperty("perplexity").GetDouble(), 1e-9);
        Assert.Equal(TrainingRuns.Context * result.GetProperty("samples_per_second").GetDouble(), result.GetProperty("tokens_per_second").GetDouble(), 1e-6);
        Assert.InRange(result.GetProperty("model_flops_utilization").GetDouble(), 1e-4, 1);
        if (schedule is not null) return;
        foreach (string field in (string[])["micro_batches", "bubble_fraction", "simulated_bubble_fraction", "theoretical_bubble_fraction"])
        {
            Assert.Equal(JsonValueKind.Null, result.GetProperty(field).ValueKind);
        }
    }

    // By default four micro-batches for each of two stages, as far as there are samples.
    [Theory]
    [InlineData(Pipeline, 8, 1.0 / (8 + 1))]
    [InlineData($"{Pipeline} --schedule interleaved:2", 8, 1.0 / ((2 * 8) + 1))]
    [InlineData($"{Pipeline} --schedule zero-bubble", 8, 1.0 / ((3 * 8) + 1))]
    [InlineData($"{Pipeline} --micro-batches 5", 5, 1.0 / (5 + 1))]
    [InlineData("--workers 4 --strategy mesh --mesh dp=2,pp=2 --zero 2", 6, 1.0 / (6 + 1))]
    [InlineData("--workers 3 --strategy pipeline --micro-batches 5 --split 1,4,1", 5, 2.0 / (5 + 2))]
    public async Task The_report_has_the_bubble_measured_simulated_and_in_theory(string options, int microBatches, double theoretical)
    {
        JsonElement result = await runs.LanguageAsync(options);
        Assert.Equal(microBatches, result.GetProperty("micro_batches").GetInt32());
        Assert.Equal(theoretical, result.GetProperty("theoretical_bubble_fraction").GetDouble(), 1e-12);
        Assert.InRange(result.GetProperty("bubble_fraction").GetDouble(), 0.001, 0.999);
        Assert.InRange(result.GetProperty("simulated_bubble_fraction").GetDouble(), 0.001, 0.999);
    }

    [Fact]
    public async Task Verbose_shows_who_has_which_part_and_a_short_run_has_no_measured_bubble()
    {
        await using SkeinProcess job = SkeinProcess.Start(
            "train", "language-model", "--text", runs.Text, "--context", $"{TrainingRuns.Context}", "--max-steps", "1", "--workers", "2",
            "--strategy", "mesh", "--mesh", "tp=1,pp=2", "--verbose", "--json", "--run-dir", Path.Combine(Path.GetDirectoryName(runs.Text)!, "verbose"));
        JsonElement result = await TrainingResult.OfAsync(job);
        int mesh = Array.IndexOf(job.Errors, "mesh dp=1,pp=2,tp=1");
        Assert.Equal(["  rank 0: dp 0, pp 0, tp 0", "  rank 1: dp 0, pp 1, tp 0"], job.Errors[(mesh + 1)..(mesh + 3)]);
        Assert.Equal(JsonValueKind.Null, result.GetProperty("bubble_fraction").ValueKind);
        Assert.Equal(JsonValueKind.Null, result.GetProperty("simulated_bubble_fraction").ValueKind);
    }

    [Theory]
    [InlineData(Sharded)]
    [InlineData(Pipeline)]
    [InlineData(Tensor)]
    [InlineData(PipelineOfParts)]
    public async Task A_model_that_was_divided_is_saved_whole_and_writes(string options) =>
        Assert.Equal(await GenerateAsync(await runs.LanguageAsync()), await GenerateAsync(await runs.LanguageAsync(options)));

    private static void AssertSame(JsonElement single, JsonElement job)
    {
        Assert.Equal(50, single.Losses().Length);
        Assert.True(single.Losses()[^1] < 0.8 * single.Losses()[0], "a model that learns nothing shows nothing");
        TrainingResult.AssertSameLosses(single.Losses(), job.Losses());
        Assert.Equal(single.GetProperty("test_loss").GetDouble(), job.GetProperty("test_loss").GetDouble(), 1e-4);
        Assert.Equal(single.GetProperty("parameter_count").GetInt64(), job.GetProperty("parameter_count").GetInt64());
    }

    /// <summary>What the model of a run takes for the likeliest continuation.</summary>
    private static async Task<string> GenerateAsync(JsonElement run)
    {
        (int code, string[] output, string[] errors) = await SkeinProcess.RunAsync(
            "generate", run.RunDirectory(), "--prompt", "And God said", "--tokens", "20", "--temperature", "0", "--json");
        Assert.True(code == 0, string.Join('\n', errors));
        string text = TrainingResult.Parse(output[^1]).GetProperty("text").GetString()!;
        Assert.NotEmpty(text);
        return text;
    }
}

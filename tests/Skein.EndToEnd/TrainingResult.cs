using System.Text.Json;

namespace Skein.EndToEnd;

/// <summary>What <c>skein train --json</c> printed.</summary>
internal static class TrainingResult
{
    public static JsonElement Parse(string text)
    {
        using var document = JsonDocument.Parse(text);
        return document.RootElement.Clone();
    }

    /// <summary>Runs <c>skein train</c> to its end, which has to be a good one.</summary>
    public static async Task<JsonElement> RunAsync(params string[] arguments)
    {
        await using var process = SkeinProcess.Start(["train", .. arguments, "--json"]);
        return await OfAsync(process);
    }

    /// <summary>Waits for the end of a job, which has to be a good one.</summary>
    public static async Task<JsonElement> OfAsync(SkeinProcess process)
    {
        var code = await process.ExitAsync();
        Assert.True(code == 0, string.Join('\n', process.Errors));
        Assert.Empty(process.Descendants);
        return Parse(process.Output[^1]);
    }

    /// <summary>Waits until rank 0 of the job with that run directory has taken a step.</summary>
    public static async Task FirstStepAsync(string run)
    {
        var metrics = Path.Combine(run, "metrics.jsonl");
        using var limit = new CancellationTokenSource(TimeSpan.FromSeconds(60));
        while (!File.Exists(metrics) || new FileInfo(metrics).Length == 0) await Task.Delay(20, limit.Token);
    }

    public static string? Checksum(this JsonElement result) => result.GetProperty("parameter_checksum").GetString();

    public static string RunDirectory(this JsonElement result) => result.GetProperty("run_directory").GetString()!;

    public static double[] Losses(this JsonElement result) => result.Numbers<double>("loss_history");

    public static T[] Numbers<T>(this JsonElement result, string name) => result.GetProperty(name).Deserialize<T[]>()!;

    /// <summary>How many samples each worker trained on, by rank.</summary>
    public static long[] RankSamples(string run) =>
    [
        .. File.ReadLines(Path.Combine(run, "metrics.jsonl")).Select(Parse).Where(line => line.TryGetProperty("rank", out _))
            .OrderBy(line => line.GetProperty("rank").GetInt32()).Select(line => line.GetProperty("samples").GetInt64()),
    ];

    public static void AssertSameLosses(double[] expected, double[] actual)
    {
        Assert.Equal(expected.Length, actual.Length);
        Assert.All(expected.Zip(actual), pair => Assert.True(Math.Abs(pair.First - pair.Second) <= 1e-4 * Math.Abs(pair.First), $"{pair}"));
    }
}

using System.Diagnostics;
using System.Text.Json;
using Skein.Training.Planning;

namespace Skein.Cli.Plan;

/// <summary>Trains by a plan for some steps, and tells what that took.</summary>
internal static class TrialRun
{
    // The first steps compile code and touch memory for the first time.
    private const int WarmUp = 2;

    public static async Task<PlanCheck> CheckAsync(PlanPrediction prediction, PlanOptions options, int steps)
    {
        string directory = Directory.CreateTempSubdirectory("skein-plan-").FullName;
        try
        {
            (string program, string[] own) = ThisCommand.Read();
            // Enough epochs for the steps, however few samples there are.
            string[] arguments = [.. own[..ThisCommand.HostArguments], .. TrainArguments.Of(prediction.Plan, options), "--epochs", $"{steps}", "--max-steps", $"{steps}", "--run-dir", directory, "--json"];
            using Process process = Process.Start(new ProcessStartInfo(program, arguments) { RedirectStandardOutput = true, RedirectStandardError = true })!;
            Task<string> errors = process.StandardError.ReadToEndAsync();
            await process.StandardOutput.ReadToEndAsync();
            await process.WaitForExitAsync();
            if (process.ExitCode != 0) throw new InvalidOperationException($"the best plan does not run: {(await errors).Trim()}");
            JsonElement summary = JsonDocument.Parse(await File.ReadAllTextAsync(Path.Combine(directory, "summary.json"))).RootElement;
            double[] ends = [.. File.ReadLines(Path.Combine(directory, "metrics.jsonl")).Select(static line => JsonDocument.Parse(line).RootElement)
                .Where(static line => line.TryGetProperty("elapsed_seconds", out _)).Select(static line => line.GetProperty("elapsed_seconds").GetDouble())];
            double[] durations = [.. ends.Skip(1).Zip(ends, static (end, start) => end - start).Skip(WarmUp - 1).Order()];
            return new PlanCheck(steps, prediction.StepSeconds, durations[durations.Length / 2], (long)prediction.MemoryBytes, summary.GetProperty("peak_rss_bytes").GetInt64());
        }
        finally
        {
            Directory.Delete(directory, recursive: true);
        }
    }
}

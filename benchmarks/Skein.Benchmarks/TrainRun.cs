using System.CommandLine;
using System.Globalization;
using System.Text.Json;
using Skein.Benchmarks.Plots;

namespace Skein.Benchmarks;

/// <summary>One run of <c>skein train</c> as processes, as its files tell it.</summary>
/// <param name="Summary">Of <c>summary.json</c>.</param>
/// <param name="Losses">Rank 0's loss of each step by the seconds from its start.</param>
internal sealed record TrainRun(JsonElement Summary, IReadOnlyList<PlotPoint> Losses)
{
    /// <summary>Which program trains.</summary>
    public static readonly Option<string> Skein = new("--skein") { DefaultValueFactory = static _ => "./skein", Description = "The command to measure" };

    public double TestLoss => Number(Summary.GetProperty("test_loss"));

    public double TestAccuracy => Summary.GetProperty("test_accuracy").GetDouble();

    public double WallSeconds => Summary.GetProperty("wall_seconds").GetDouble();

    public double BytesSentPerWorker => Summary.GetProperty("bytes_sent_per_worker").GetDouble();

    public double PeakBytes => Summary.GetProperty("peak_rss_bytes").GetDouble();

    public string Checksum => Summary.GetProperty("parameter_checksum").GetString()!;

    public double TrainLoss => Number(Summary.GetProperty("train_loss"));

    public double MeanStaleness => Summary.GetProperty("mean_staleness").GetDouble();

    /// <summary>Trains in a folder that is deleted afterwards.</summary>
    /// <exception cref="InvalidOperationException">It failed.</exception>
    public static Task<TrainRun> RunAsync(string skein, IEnumerable<string> arguments, CancellationToken cancellationToken) => RunAsync(skein, [], arguments, cancellationToken);

    /// <summary>As the other, but by <c>skein launch</c> with these options.</summary>
    public static async Task<TrainRun> RunAsync(string skein, string[] launch, IEnumerable<string> arguments, CancellationToken cancellationToken)
    {
        string directory = Directory.CreateTempSubdirectory("skein-benchmark-").FullName;
        try
        {
            string[] train = ["train", .. arguments, "--json", "--run-dir", directory];
            await ChildProcess.OutputAsync(skein, launch.Length == 0 ? train : ["launch", .. launch, "--", skein, .. train], cancellationToken);
            JsonElement summary = JsonDocument.Parse(await File.ReadAllTextAsync(Path.Combine(directory, "summary.json"), cancellationToken)).RootElement;
            var losses = new List<PlotPoint>();
            foreach (string line in await File.ReadAllLinesAsync(Path.Combine(directory, "metrics.jsonl"), cancellationToken))
            {
                JsonElement step = JsonDocument.Parse(line).RootElement;
                if (step.TryGetProperty("elapsed_seconds", out JsonElement seconds)) losses.Add(new PlotPoint(seconds.GetDouble(), Number(step.GetProperty("loss"))));
            }

            return new TrainRun(summary, losses);
        }
        finally
        {
            Directory.Delete(directory, recursive: true);
        }
    }

    /// <summary>The median of the steps' durations but those of the first <paramref name="warmUp"/>.</summary>
    public double StepSeconds(int warmUp) => Statistics.Median(Losses.Skip(warmUp).Zip(Losses.Skip(warmUp - 1), static (end, start) => end.X - start.X));

    /// <summary>The losses by the seconds from the end of the first step, as means over <paramref name="window"/> steps around each: a window behind it would be later in time.</summary>
    public IReadOnlyList<PlotPoint> Smoothed(int window)
    {
        var means = new List<PlotPoint>();
        double sum = 0;
        for (int i = 0; i < Losses.Count; i++)
        {
            sum += Losses[i].Y;
            if (i >= window) sum -= Losses[i - window].Y;
            if (i >= window - 1) means.Add(new PlotPoint(Losses[i - (window / 2)].X - Losses[0].X, sum / window));
        }

        return means;
    }

    /// <summary>A run that diverges writes names in place of numbers.</summary>
    private static double Number(JsonElement value) => value.ValueKind == JsonValueKind.Number
        ? value.GetDouble()
        : double.Parse(value.GetString()!, NumberStyles.Float, CultureInfo.InvariantCulture);
}

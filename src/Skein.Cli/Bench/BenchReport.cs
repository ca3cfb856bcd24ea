using System.Globalization;
using System.Text;
using System.Text.Json;

namespace Skein.Cli.Bench;

/// <summary>One size: times in seconds, bandwidths in bytes per second as NCCL's tests define them.</summary>
internal sealed record BenchResult(
    long Bytes,
    double MedianSeconds,
    double P99Seconds,
    double AlgorithmBandwidth,
    double BusBandwidth,
    int Iterations,
    bool Correct,
    string? Algorithm);

/// <summary>What <c>skein bench</c> prints.</summary>
internal sealed record BenchReport(
    string Collective,
    int WorldSize,
    string Dtype,
    string Transport,
    string? Algorithm,
    string Buffers,
    IReadOnlyList<BenchResult> Results)
{
    public static JsonSerializerOptions Json { get; } = new() { PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower };

    public string ForPeople()
    {
        var text = new StringBuilder();
        text.AppendLine($"{Collective}, {WorldSize} ranks, {Dtype}, {Transport}, {Buffers} buffers");
        text.AppendLine("       bytes       median          p99  algorithm GB/s  bus GB/s");
        foreach (BenchResult result in Results)
        {
            text.Append(CultureInfo.InvariantCulture, $"{result.Bytes,12:N0} {result.MedianSeconds * 1e6,9:N1} µs {result.P99Seconds * 1e6,9:N1} µs");
            text.Append(CultureInfo.InvariantCulture, $" {result.AlgorithmBandwidth / 1e9,15:F2} {result.BusBandwidth / 1e9,9:F2}");
            text.AppendLine(result.Correct ? "" : "  WRONG RESULT");
        }

        return text.ToString().TrimEnd();
    }
}

using System.Text.Json;
using System.Text.Json.Serialization;

namespace Skein.Cli.Train;

/// <summary>The result of <c>skein train</c>, as it is printed and kept in <c>summary.json</c>. What does not apply is null.</summary>
internal sealed record TrainSummary
{
    public static readonly JsonSerializerOptions Json = new()
    {
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        Converters = { new FiniteOrNull<double>(), new FiniteOrNull<float>() },
    };

    public required string Workload { get; init; }
    public required string Model { get; init; }
    public required string Strategy { get; init; }
    public required int Workers { get; init; }
    public required int WorldSize { get; init; }
    public required long Seed { get; init; }
    public required int Epochs { get; init; }
    public required long Steps { get; init; }
    public required int GlobalBatchSize { get; init; }
    public required long ParameterCount { get; init; }
    public required double TrainLoss { get; init; }
    public required double TestLoss { get; init; }
    public required double? TestAccuracy { get; init; }
    public double? TestRmse { get; init; }
    public double? BaselineRmseGlobalMean { get; init; }
    public double? BaselineRmseBiases { get; init; }

    // The naming policy puts no underscore before a number.
    [JsonPropertyName("recall_at_10")]
    public double? RecallAt10 { get; init; }
    public double? Perplexity { get; init; }
    public double? TokensPerSecond { get; init; }
    public double? ModelFlopsUtilization { get; init; }
    public required IReadOnlyList<float> LossHistory { get; init; }
    public required double SamplesPerSecond { get; init; }
    public required double WallSeconds { get; init; }
    public required double ComputeSeconds { get; init; }
    public required double CommunicationSeconds { get; init; }
    public required long BytesSentPerWorker { get; init; }
    public required long PeakRssBytes { get; init; }
    public required string ParameterChecksum { get; init; }
    public required string? Transport { get; init; }
    public required string? Algorithm { get; init; }
    public string? Compression { get; init; }
    public double? CompressionRatio { get; init; }
    public double? CompressionSeconds { get; init; }
    public double? CompressionError { get; init; }
    public long? SkippedSteps { get; init; }
    public string? Mesh { get; init; }
    public int? Zero { get; init; }
    public string? Schedule { get; init; }
    public int? MicroBatches { get; init; }
    public double? BubbleFraction { get; init; }
    public double? SimulatedBubbleFraction { get; init; }
    public double? TheoreticalBubbleFraction { get; init; }
    public string? Gossip { get; init; }
    public string? Topology { get; init; }
    public double? SpectralGap { get; init; }
    public double? ConsensusDistance { get; init; }
    public IReadOnlyList<double[]>? ConsensusHistory { get; init; }
    public int? Servers { get; init; }
    public string? Consistency { get; init; }
    public double? MeanStaleness { get; init; }
    public long? MaxStaleness { get; init; }
    public IReadOnlyList<long>? StalenessHistogram { get; init; }
    public IReadOnlyList<long>? ServerUpdates { get; init; }
    public long? ResumedFromStep { get; init; }
    public int Restarts { get; init; }
    public required string RunDirectory { get; init; }

    private string Recommendation => TestRmse is null
        ? ""
        : $"""

            test RMSE {TestRmse:0.0000} (the mean for everyone {BaselineRmseGlobalMean:0.0000}, biases only {BaselineRmseBiases:0.0000}), recall at 10 {RecallAt10:0.0000}
            """;

    private string Language => Perplexity is null
        ? ""
        : $"""

            perplexity {Perplexity:0.00} a token ({TestLoss / Math.Log(2):0.000} bits); {TokensPerSecond:0} tokens/s, {ModelFlopsUtilization:P0} of the processors' peak
            """;

    /// <summary>The few numbers that a person looks for first.</summary>
    public string ForPeople() =>
        $"""
        {Workload} {Model}, {Strategy} on {Workers} worker{(Workers == 1 ? "" : "s")}: {Steps} steps in {WallSeconds:0.00} s, {SamplesPerSecond:0} samples/s
        train loss {TrainLoss:0.0000}, test loss {TestLoss:0.0000}{(TestAccuracy is { } accuracy ? $", test accuracy {accuracy:0.0000}" : "")}{Recommendation}{Language}
        results in {RunDirectory}
        """;
}

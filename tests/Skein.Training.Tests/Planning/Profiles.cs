using Skein.Training.Planning;

namespace Skein.Training.Tests.Planning;

/// <summary>Models whose costs are round numbers.</summary>
internal static class Profiles
{
    public const double Forward = 0.01;
    public const double Backward = 0.02;
    public const double Saved = 1000;

    /// <summary>Equal layers, each with a parameter of 100 elements; costs per sample, none fixed.</summary>
    public static ModelProfile Of(int layers, IReadOnlyList<TensorLimit>? limits = null) => new()
    {
        Layers = [.. Enumerable.Range(0, layers).Select(static id => Layer($"layer {id}") with { Parameters = [new ParameterProfile(id, 100, IsDivided: false)] })],
        Loss = new LayerProfile { Name = "loss", Forward = default, Backward = default, Saved = default, ForwardPeak = default, BackwardPeak = default, BackwardChange = default },
        IsLayered = true,
        TensorLimits = limits,
        OptimizerSeconds = 0,
        OptimizerBytes = 8,
        CopySeconds = 0,
        TrainingPeak = default,
        EvaluationPeak = default,
        BaseBytes = 0,
        LoadPeakBytes = 0,
        Threads = 1,
        Cores = 64,
    };

    private static LayerProfile Layer(string name) => new()
    {
        Name = name,
        Forward = new LinearCost(0, Forward),
        Backward = new LinearCost(0, Backward),
        Saved = new LinearCost(0, Saved),
        ForwardPeak = new LinearCost(0, Saved),
        // The fresh gradient.
        BackwardPeak = new LinearCost(400, 0),
        BackwardChange = new LinearCost(400, -Saved),
        BalanceCost = 1,
    };
}

using System.Text.Json.Serialization;

namespace Skein.Training.Planning;

/// <summary>A parameter of a layer.</summary>
/// <param name="Id">The same for layers that share it.</param>
/// <param name="Elements">Of the whole of it.</param>
/// <param name="IsDivided">Whether tensor-parallel ranks divide it.</param>
public readonly record struct ParameterProfile(int Id, long Elements, bool IsDivided);

/// <summary>A collective that tensor-parallel ranks need in a layer.</summary>
/// <param name="Kind">All-reduce or all-gather.</param>
/// <param name="BytesPerSample">Of the whole buffer.</param>
/// <param name="InBackward">Whether it belongs to the backward pass.</param>
public readonly record struct TensorCollective(CollectiveKind Kind, double BytesPerSample, bool InBackward);

/// <summary>A module whose length tensor-parallel ranks have to share.</summary>
/// <param name="Module">Its name.</param>
/// <param name="Length">Heads, outputs, inputs or rows.</param>
/// <param name="What">Which of these.</param>
/// <param name="Equally">Whether all need the same.</param>
public readonly record struct TensorLimit(string Module, long Length, string What, bool Equally);

/// <summary>What one layer, or the loss, costs one process. Times are of the threads that a worker has.</summary>
public sealed record LayerProfile
{
    /// <summary>The layer's name in the model.</summary>
    public required string Name { get; init; }

    /// <summary>Its parameters.</summary>
    public IReadOnlyList<ParameterProfile> Parameters { get; init; } = [];

    /// <summary>Seconds of the forward pass.</summary>
    public required LinearCost Forward { get; init; }

    /// <summary>Seconds of the backward pass.</summary>
    public required LinearCost Backward { get; init; }

    /// <summary>The bytes that a forward pass leaves for the backward pass, the output included.</summary>
    public required LinearCost Saved { get; init; }

    /// <summary>The most bytes in use during the forward pass, above those before it.</summary>
    public required LinearCost ForwardPeak { get; init; }

    /// <summary>The most bytes in use during the backward pass, above those before it; with fresh gradients of the parameters.</summary>
    public required LinearCost BackwardPeak { get; init; }

    /// <summary>The bytes in use after the backward pass less those before it; with fresh gradients of the parameters.</summary>
    public required LinearCost BackwardChange { get; init; }

    /// <summary>Of the output, per sample.</summary>
    public double OutputBytes { get; init; }

    /// <summary>What pipelines are balanced by (<see cref="Pipeline.PipelineBalance.Estimated"/>).</summary>
    public double BalanceCost { get; init; }

    /// <summary>The part of the time that tensor-parallel ranks divide, from 0 to 1.</summary>
    public double DividedTime { get; init; }

    /// <summary>The part of the bytes that they divide, from 0 to 1.</summary>
    public double DividedBytes { get; init; }

    /// <summary>What tensor-parallel ranks exchange.</summary>
    public IReadOnlyList<TensorCollective> Collectives { get; init; } = [];

    /// <summary>Whether any rank of a tensor group has less to do than one process.</summary>
    [JsonIgnore]
    public bool IsDivided => DividedTime > 0;
}

/// <summary>What a model costs on one machine, as <see cref="ModelProfiler"/> measured it: all that a plan is computed from. Immutable.</summary>
public sealed record ModelProfile
{
    /// <summary>In the order of the forward pass; one only for a model that cannot be taken apart.</summary>
    public required IReadOnlyList<LayerProfile> Layers { get; init; }

    /// <summary>The loss, from the last layer's output.</summary>
    public required LayerProfile Loss { get; init; }

    /// <summary>Whether a pipeline can cut the model between its layers.</summary>
    public required bool IsLayered { get; init; }

    /// <summary>Whether the model can be measured where no worker has the whole of it.</summary>
    public bool MayBeDivided { get; init; } = true;

    /// <summary>What tensor-parallel ranks have to share; null: there is no plan for them.</summary>
    public IReadOnlyList<TensorLimit>? TensorLimits { get; init; }

    /// <summary>Seconds of the optimizer for one element of the parameters.</summary>
    public required double OptimizerSeconds { get; init; }

    /// <summary>Bytes that the optimizer keeps for one element.</summary>
    public required double OptimizerBytes { get; init; }

    /// <summary>Seconds of copying one byte from one tensor to another.</summary>
    public required double CopySeconds { get; init; }

    /// <summary>The most that the resident size grows by in forward and backward passes over the whole model, one after the other, gradients included.</summary>
    public required LinearCost TrainingPeak { get; init; }

    /// <summary>The same in an evaluation's forward passes.</summary>
    public required LinearCost EvaluationPeak { get; init; }

    /// <summary>Of a worker without its model: the runtime, LibTorch, the data.</summary>
    public required double BaseBytes { get; init; }

    /// <summary>The largest resident size until data and model were there.</summary>
    public required double LoadPeakBytes { get; init; }

    /// <summary>Threads of the process that measured.</summary>
    public required int Threads { get; init; }

    /// <summary>Cores of the host.</summary>
    public required int Cores { get; init; }

    /// <summary>The number of parameters.</summary>
    [JsonIgnore]
    public long ParameterCount => Elements(Layers);

    internal static long Elements(IEnumerable<LayerProfile> layers, int tensor = 1) =>
        layers.SelectMany(static layer => layer.Parameters).DistinctBy(static parameter => parameter.Id).Sum(parameter => Part(parameter, tensor));

    internal static long Part(ParameterProfile parameter, int tensor) => parameter.IsDivided ? (parameter.Elements + tensor - 1) / tensor : parameter.Elements;
}

using Skein.Training.Data;
using static TorchSharp.torch;

namespace Skein.Workloads;

/// <summary>A data set with the models that fit it and settings that train them well. Immutable; using one is thread-safe.</summary>
public sealed record Workload
{
    /// <summary>All built-in workloads.</summary>
    public static IReadOnlyList<Workload> All { get; } = [Digits.Workload, FashionMnist.Workload];

    /// <summary>The name on the command line.</summary>
    public required string Name { get; init; }

    /// <summary>One line for people.</summary>
    public required string Description { get; init; }

    /// <summary>Makes a model with fresh parameters, by name; the first is the default.</summary>
    public required IReadOnlyList<ModelChoice> Models { get; init; }

    /// <summary>Reads the data.</summary>
    public required Func<CancellationToken, Task<WorkloadData>> LoadDataAsync { get; init; }

    /// <summary>Settings that reach a good accuracy with the default model.</summary>
    public required Hyperparameters Defaults { get; init; }

    /// <summary>Maps outputs and labels to the mean loss over the batch.</summary>
    public Func<Tensor, Tensor, Tensor> Loss { get; init; } = static (output, labels) => nn.functional.cross_entropy(output, labels);

    /// <summary>The workload of that name, or null.</summary>
    public static Workload? Find(string name) => All.FirstOrDefault(workload => workload.Name == name);

    /// <summary>The model of that name with parameters that depend on nothing but the seed. Reseeds LibTorch's generator.</summary>
    /// <exception cref="ArgumentException">There is no such model; the message lists them.</exception>
    public nn.Module<Tensor, Tensor> CreateModel(string name, long seed)
    {
        ModelChoice choice = Models.FirstOrDefault(model => model.Name == name)
            ?? throw new ArgumentException($"{Name} has no model '{name}', only {string.Join(", ", Models.Select(model => model.Name))}", nameof(name));
        random.manual_seed(seed);
        return choice.Create();
    }
}

/// <summary>A model by name.</summary>
/// <param name="Name">The name on the command line.</param>
/// <param name="Create">Makes the model with parameters drawn from LibTorch's generator.</param>
public sealed record ModelChoice(string Name, Func<nn.Module<Tensor, Tensor>> Create);

/// <summary>How to train.</summary>
/// <param name="Epochs">Passes over the training data.</param>
/// <param name="BatchSize">Samples per optimizer step over all workers. The built-in ones divide by 1, 2, 3 and 4.</param>
/// <param name="Optimizer"><c>sgd</c>, <c>momentum</c>, <c>adam</c> or <c>adamw</c>.</param>
/// <param name="LearningRate">The learning rate after the warm-up.</param>
/// <param name="WarmupSteps">
/// Steps over which the learning rate grows linearly to its value (Goyal et al. 2017, "Accurate, large minibatch SGD"). Where the
/// first steps are unstable, they also blow up the rounding differences between numbers of workers.
/// </param>
public sealed record Hyperparameters(int Epochs, int BatchSize, string Optimizer, double LearningRate, int WarmupSteps = 0)
{
    /// <summary>The learning rate of <paramref name="step"/>, counted from 0, when it is <paramref name="learningRate"/> after the warm-up.</summary>
    public double LearningRateAt(long step, double learningRate) => learningRate * Math.Min(1, (step + 1.0) / Math.Max(1, WarmupSteps));
}

/// <summary>The two parts of a data set. Owns both.</summary>
/// <param name="Train">What the model learns from.</param>
/// <param name="Test">What it is measured on.</param>
public sealed record WorkloadData(InMemoryDataset Train, InMemoryDataset Test) : IDisposable
{
    /// <summary>Frees the data.</summary>
    public void Dispose()
    {
        Train.Dispose();
        Test.Dispose();
    }
}

using Skein.Training.Data;
using Skein.Training.Embeddings;
using Skein.Training.TensorParallelism;
using Skein.Workloads.Language;
using Skein.Workloads.Ratings;
using static TorchSharp.torch;

namespace Skein.Workloads;

/// <summary>A data set with the models that fit it and settings that train them well. Immutable; using one is thread-safe.</summary>
public sealed record Workload
{
    /// <summary>All built-in workloads.</summary>
    public static IReadOnlyList<Workload> All { get; } = [Digits.Workload, FashionMnist.Workload, LectureRatings.Workload, SyntheticRatings.Workload, LanguageModel.Workload];

    /// <summary>The name on the command line.</summary>
    public required string Name { get; init; }

    /// <summary>One line for people.</summary>
    public required string Description { get; init; }

    /// <summary>Makes a model with fresh parameters, by name; the first is the default.</summary>
    public required IReadOnlyList<ModelChoice> Models { get; init; }

    /// <summary>Reads the data; what of it is <see cref="External"/> is fetched first where it is not on this machine.</summary>
    public required Func<CancellationToken, Task<WorkloadData>> LoadDataAsync { get; init; }

    /// <summary>The data that are no part of Skein. Null: all are.</summary>
    public ExternalData? External { get; init; }

    /// <summary>Settings that train the default model well, and the other models unless they have their own.</summary>
    public required Hyperparameters Defaults { get; init; }

    /// <summary>Maps outputs and labels to the mean loss over the batch.</summary>
    public Func<Tensor, Tensor, Tensor> Loss { get; init; } = static (output, labels) => nn.functional.cross_entropy(output, labels);

    /// <summary>
    /// Measures a trained model on the test data by what is particular to this workload, as numbers by name. The model is in evaluation
    /// mode; the call needs no gradients. Null: the loss, and the accuracy where labels are classes, say all.
    /// </summary>
    public Func<nn.Module<Tensor, Tensor>, WorkloadData, IReadOnlyDictionary<string, double>>? Evaluate { get; init; }

    /// <summary>What a language model reads, and how. Null: the workload is none.</summary>
    public LanguageOptions? Language { get; init; }

    /// <summary>The workload of that name, or null.</summary>
    public static Workload? Find(string name) => All.FirstOrDefault(workload => workload.Name == name);

    /// <summary>The model of that name with parameters that depend on nothing but the seed. Reseeds LibTorch's generator.</summary>
    /// <param name="name">One of <see cref="Models"/>.</param>
    /// <param name="seed">Seeds the parameters.</param>
    /// <param name="embedding">Supplies the model's embedding tables, if it has any. Null: <see cref="LocalEmbedding.Create"/>.</param>
    /// <exception cref="ArgumentException">There is no such model; the message lists them.</exception>
    public nn.Module<Tensor, Tensor> CreateModel(string name, long seed, Func<EmbeddingSpec, nn.Module<Tensor, Tensor>>? embedding = null)
    {
        ModelChoice choice = Choice(name);
        random.manual_seed(seed);
        return choice.Create(embedding ?? LocalEmbedding.Create);
    }

    /// <summary>Settings that train the model of that name well.</summary>
    /// <exception cref="ArgumentException">There is no such model; the message lists them.</exception>
    public Hyperparameters DefaultsOf(string name) => Choice(name).Defaults ?? Defaults;

    /// <summary>The same workload for one model and what that is to read; what <paramref name="options"/> leave open is as suits the model.</summary>
    /// <exception cref="ArgumentException">It is no language model, there is no such model, or an option makes no sense.</exception>
    public Workload WithLanguage(string model, LanguageOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        if (Language is null) throw new ArgumentException($"{Name} is no language model: it reads no text");
        return LanguageModel.Create(Choice(model).Name, options);
    }

    /// <summary>The model of that name.</summary>
    /// <exception cref="ArgumentException">There is no such model; the message lists them.</exception>
    public ModelChoice Choice(string name) => Models.FirstOrDefault(model => model.Name == name)
        ?? throw new ArgumentException($"{Name} has no model '{name}', only {string.Join(", ", Models.Select(model => model.Name))}", nameof(name));
}

/// <summary>A model by name.</summary>
/// <param name="Name">The name on the command line.</param>
/// <param name="Create">
/// Makes the model with parameters drawn from LibTorch's generator, and its embedding tables, if it has any, by the given factory.
/// </param>
/// <param name="Defaults">Settings that train it well. Null: those of the workload.</param>
/// <param name="FlopsPerToken">The floating-point operations that training takes for a token, forward and backward; null where nobody counted.</param>
/// <param name="TensorPlan">How tensor-parallel ranks divide the model; null: they cannot.</param>
public sealed record ModelChoice(
    string Name,
    Func<Func<EmbeddingSpec, nn.Module<Tensor, Tensor>>, nn.Module<Tensor, Tensor>> Create,
    Hyperparameters? Defaults = null,
    double? FlopsPerToken = null,
    Func<nn.Module, TensorParallelPlan>? TensorPlan = null);

/// <summary>How to train.</summary>
/// <param name="Epochs">Passes over the training data.</param>
/// <param name="BatchSize">Samples per optimizer step over all workers. The built-in ones divide by 1, 2, 3 and 4.</param>
/// <param name="Optimizer"><c>sgd</c>, <c>momentum</c>, <c>adam</c> or <c>adamw</c>.</param>
/// <param name="LearningRate">The learning rate after the warm-up.</param>
/// <param name="WarmupSteps">
/// Steps over which the learning rate grows linearly to its value (Goyal et al. 2017, "Accurate, large minibatch SGD"). Where the
/// first steps are unstable, they also blow up the rounding differences between numbers of workers.
/// </param>
/// <param name="WeightDecay">The optimizer's weight decay, 0 or more. Null: 0.01 for <c>adamw</c>, 0 for the others.</param>
public sealed record Hyperparameters(
    int Epochs, int BatchSize, string Optimizer, double LearningRate, int WarmupSteps = 0, double? WeightDecay = null)
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

using Skein.Training.TensorParallelism;
using static TorchSharp.torch;

namespace Skein.Workloads.Language;

/// <summary>A <see cref="Gpt"/> that learns to continue a text: the King James Bible, or any other.</summary>
internal static class LanguageModel
{
    private static readonly Size[] Sizes =
    [
        new("gpt-tiny", GptConfiguration.Tiny, "bytes", 64, new Hyperparameters(Epochs: 1, BatchSize: 24, Optimizer: "adamw", LearningRate: 2e-3, WarmupSteps: 100)),
        new("gpt-small", GptConfiguration.Small, "bytes", 256, new Hyperparameters(Epochs: 3, BatchSize: 24, Optimizer: "adamw", LearningRate: 1e-3, WarmupSteps: 100, WeightDecay: 0.1)),
        new("gpt2", GptConfiguration.Gpt2, "gpt2", 1024, new Hyperparameters(Epochs: 3, BatchSize: 24, Optimizer: "adamw", LearningRate: 6e-4, WarmupSteps: 100, WeightDecay: 0.1)),
    ];

    internal static Workload Workload { get; } = Create(Sizes[0].Name, new LanguageOptions());

    /// <summary>The workload whose data are what <paramref name="model"/> is to read.</summary>
    /// <exception cref="ArgumentException">An option makes no sense.</exception>
    internal static Workload Create(string model, LanguageOptions options)
    {
        options.Validate();
        LanguageOptions chosen = Array.Find(Sizes, size => size.Name == model)!.Fill(options);
        return new Workload
        {
            Name = "language-model",
            Description = "a transformer that learns to continue the King James Bible, or any other text",
            Models = [.. Sizes.Select(size => size.ToChoice(options))],
            LoadDataAsync = _ => Task.FromResult(TextWindows.Load(chosen.TextFile, TextTokenizer.Create(chosen.Tokenizer!), chosen.Context!.Value)),
            Defaults = Sizes[0].Defaults,
            Loss = CrossEntropy,
            Language = chosen,
        };
    }

    /// <summary>The mean over all positions, in float32: sums of small probabilities are no good in fewer bits.</summary>
    private static Tensor CrossEntropy(Tensor logits, Tensor labels) =>
        nn.functional.cross_entropy(logits.flatten(0, 1).to(float32), labels.flatten());

    private sealed record Size(string Name, Func<int, int, GptConfiguration> Shape, string Tokenizer, int Context, Hyperparameters Defaults)
    {
        public LanguageOptions Fill(LanguageOptions options) =>
            options with { Tokenizer = options.Tokenizer ?? Tokenizer, Context = options.Context ?? Context };

        public ModelChoice ToChoice(LanguageOptions options)
        {
            LanguageOptions chosen = Fill(options);
            GptConfiguration shape = Shape(TextTokenizer.Create(chosen.Tokenizer!).Vocabulary, chosen.Context!.Value);
            return new ModelChoice(Name, _ => new Gpt(shape), Defaults, shape.FlopsPerToken, _ => TensorParallelPlan.Transformer(shape.Heads));
        }
    }
}

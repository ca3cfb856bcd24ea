using Skein.Training;
using Skein.Training.Data;
using static TorchSharp.torch;

namespace Skein.Workloads.Language;

/// <summary>Continues texts with a trained language model, one token after the other. Not thread-safe.</summary>
/// <param name="model">Token ids [n, t] to logits [n, t, vocabulary]; remains the caller's.</param>
/// <param name="tokenizer">What it was trained with.</param>
/// <param name="context">The most tokens that it reads; of a longer text the last ones. 1 or more.</param>
public sealed class TextGenerator(nn.Module<Tensor, Tensor> model, TextTokenizer tokenizer, int context)
{
    /// <summary>The continuation of <paramref name="prompt"/>, without it.</summary>
    /// <exception cref="ArgumentException">The prompt is empty, or an option out of range.</exception>
    public string Generate(string prompt, GenerationOptions options)
    {
        ArgumentException.ThrowIfNullOrEmpty(prompt);
        ArgumentNullException.ThrowIfNull(options);
        options.Validate();
        Device device = model.parameters().First().device;
        var random = new SplitMix64(options.Seed, 0);
        List<int> tokens = [.. tokenizer.Encode(prompt)];
        int start = tokens.Count;
        using var modes = TrainingModes.Evaluate(model);
        using var noGradient = no_grad();
        while (tokens.Count < start + options.Tokens)
        {
            using var scope = NewDisposeScope();
            long[] window = [.. tokens.Skip(tokens.Count - context).Select(static token => (long)token)];
            Tensor logits = model.call(tensor(window, device: device).unsqueeze(0))[0, -1];
            tokens.Add(Choose(logits.to(float32).cpu().data<float>().ToArray(), options, random.NextDouble()));
        }

        return tokenizer.Decode(tokens[start..]);
    }

    /// <summary>The token at <paramref name="point"/>, from 0 to below 1, of the distribution that <paramref name="logits"/> give under these options.</summary>
    internal static int Choose(ReadOnlySpan<float> logits, GenerationOptions options, double point)
    {
        int[] candidates = [.. Enumerable.Range(0, logits.Length)];
        float[] ascending = logits.ToArray();
        Array.Sort(ascending, candidates);
        int kept = options.Temperature == 0 ? 1 : Math.Min(options.TopK ?? candidates.Length, candidates.Length);
        float largest = ascending[^1];
        double[] weights = [.. ascending[^kept..].Select(logit => options.Temperature == 0 ? 1 : Math.Exp((logit - largest) / options.Temperature))];
        double left = point * weights.Sum();
        int chosen = weights.Length - 1;
        for (; chosen > 0 && left >= weights[chosen]; chosen--) left -= weights[chosen];
        return candidates[^(kept - chosen)];
    }
}

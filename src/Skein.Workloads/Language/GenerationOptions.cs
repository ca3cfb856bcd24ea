namespace Skein.Workloads.Language;

/// <summary>How a language model continues a text. Immutable.</summary>
public sealed record GenerationOptions
{
    /// <summary>The most tokens at a time.</summary>
    public const int MostTokens = 1_000_000;

    /// <summary>How many tokens to add, from 1 to <see cref="MostTokens"/>. Default 200.</summary>
    public int Tokens { get; init; } = 200;

    /// <summary>
    /// What logits are divided by: below 1 likely tokens become likelier, above 1 all come closer. 0 always takes the likeliest. Default 0.8.
    /// </summary>
    public double Temperature { get; init; } = 0.8;

    /// <summary>Only so many of the likeliest tokens are drawn from, 1 or more. Null: all.</summary>
    public int? TopK { get; init; }

    /// <summary>The same seed, model and prompt give the same text. 0 or more.</summary>
    public long Seed { get; init; }

    /// <exception cref="ArgumentException">Something is out of range.</exception>
    public void Validate()
    {
        if (Tokens is < 1 or > MostTokens)
        {
            throw new ArgumentException($"{Tokens} tokens cannot be generated: give a whole number from 1 to {MostTokens}");
        }

        if (!(Temperature >= 0) || !double.IsFinite(Temperature)) throw new ArgumentException($"a temperature of {Temperature} makes no sense: give a number from 0");
        if (TopK < 1) throw new ArgumentException($"a top-k of {TopK} leaves no token: give a whole number from 1");
        if (Seed < 0) throw new ArgumentException($"the seed is {Seed}: give a whole number from 0");
    }
}

namespace Skein.Workloads.Language;

/// <summary>How a transformer knows the order of its tokens.</summary>
internal enum PositionEncoding
{
    /// <summary>A learned vector for each position, added to the token's (Radford et al. 2019).</summary>
    Learned,

    /// <summary>Queries and keys rotated by their position (<see cref="RotaryPositions"/>).</summary>
    Rotary,
}

/// <summary>How a transformer normalizes what its layers read.</summary>
internal enum Normalization
{
    /// <summary>Mean 0 and variance 1 (Ba, Kiros and Hinton 2016).</summary>
    Layer,

    /// <summary>Root mean square 1 (<see cref="RmsNorm"/>).</summary>
    RootMeanSquare,
}

/// <summary>The shape of a <see cref="Gpt"/>. Immutable.</summary>
internal sealed record GptConfiguration
{
    /// <summary>The number of different tokens, 1 or more.</summary>
    public required int Vocabulary { get; init; }

    /// <summary>The most tokens that it can look at, 1 or more.</summary>
    public required int Context { get; init; }

    /// <summary>The number of blocks, 1 or more.</summary>
    public required int Layers { get; init; }

    /// <summary>The length of the vector that stands for a token; a multiple of <see cref="Heads"/>.</summary>
    public required int Width { get; init; }

    /// <summary>Attention heads in each block, 1 or more.</summary>
    public required int Heads { get; init; }

    /// <summary>How it knows the order of its tokens.</summary>
    public PositionEncoding Positions { get; init; } = PositionEncoding.Rotary;

    /// <summary>How it normalizes.</summary>
    public Normalization Normalization { get; init; } = Normalization.RootMeanSquare;

    /// <summary>Whether linear layers and layer norms have a bias.</summary>
    public bool HasBias { get; init; }

    /// <summary>Whether the last layer's weight is the table of token embeddings (Press and Wolf 2017).</summary>
    public bool TiesEmbeddings { get; init; }

    /// <summary>The part of the embeddings, of the attention weights and of each layer's output that is dropped in training, from 0 to below 1.</summary>
    public double Dropout { get; init; }

    /// <summary>The length of a head's query; even where positions are rotary.</summary>
    public int HeadWidth => Width / Heads;

    /// <summary>
    /// The floating-point operations that training takes for one token, forward and backward: 6·N + 12·L·w·t (Chowdhery et al. 2022,
    /// "PaLM", appendix B), N counting the weights of matrix products only: what is looked up in a table multiplies nothing.
    /// </summary>
    public double FlopsPerToken
    {
        get
        {
            double weights = (12.0 * Layers * Width * Width) + ((double)Vocabulary * Width);
            return (6 * weights) + (12.0 * Layers * Width * Context);
        }
    }

    /// <summary>0.5 million parameters for a vocabulary of 256: trains in minutes on one core.</summary>
    public static GptConfiguration Tiny(int vocabulary, int context) =>
        new() { Vocabulary = vocabulary, Context = context, Layers = 4, Width = 96, Heads = 4 };

    /// <summary>10.8 million parameters for a vocabulary of 256.</summary>
    public static GptConfiguration Small(int vocabulary, int context) =>
        new() { Vocabulary = vocabulary, Context = context, Layers = 6, Width = 384, Heads = 6 };

    /// <summary>
    /// The smallest of the four in Radford et al. 2019, "Language models are unsupervised multitask learners": 124,439,808 parameters
    /// for its own vocabulary of 50,257 and context of 1,024.
    /// </summary>
    public static GptConfiguration Gpt2(int vocabulary, int context) => new()
    {
        Vocabulary = vocabulary,
        Context = context,
        Layers = 12,
        Width = 768,
        Heads = 12,
        Positions = PositionEncoding.Learned,
        Normalization = Normalization.Layer,
        HasBias = true,
        TiesEmbeddings = true,
    };

    /// <exception cref="ArgumentException">Something is out of range, or does not divide.</exception>
    public void Validate()
    {
        foreach ((string name, int value) in (ReadOnlySpan<(string, int)>)
            [(nameof(Vocabulary), Vocabulary), (nameof(Context), Context), (nameof(Layers), Layers), (nameof(Width), Width), (nameof(Heads), Heads)])
        {
            ArgumentOutOfRangeException.ThrowIfLessThan(value, 1, name);
        }

        if (Width % Heads != 0) throw new ArgumentException($"a width of {Width} does not divide by {Heads} heads");
        if (Positions == PositionEncoding.Rotary && HeadWidth % 2 != 0) throw new ArgumentException($"rotary positions turn pairs of numbers, but a head has {HeadWidth} ({Width} / {Heads})");
        if (!(Dropout >= 0 && Dropout < 1)) throw new ArgumentOutOfRangeException(nameof(Dropout), Dropout, "a number from 0 to below 1");
    }
}

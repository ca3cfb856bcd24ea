using Skein.Training;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Workloads.Language;

/// <summary>
/// A decoder-only transformer: token ids (int64, [n, t]) to the logits of each position's next token ([n, t, vocabulary]), as Radford et
/// al. 2019 arrange its layers, with their initialization. No longer input than the context, where positions are learned.
/// </summary>
internal sealed class Gpt : nn.Module<Tensor, Tensor>, ILayeredModel
{
    private const double InitialDeviation = 0.02;

    private readonly ModuleList<nn.Module<Tensor, Tensor>> layers;
    private readonly RotaryPositions? rotary;

    internal Gpt(GptConfiguration shape)
        : base(nameof(Gpt))
    {
        shape.Validate();
        rotary = shape.Positions == PositionEncoding.Rotary ? new RotaryPositions(shape.HeadWidth) : null;
        Embedding tokens = Embedding(shape.Vocabulary, shape.Width);
        layers = nn.ModuleList<nn.Module<Tensor, Tensor>>(
        [
            new InputLayer(shape, tokens),
            .. Enumerable.Range(0, shape.Layers).Select(_ => new Block(shape, rotary)),
            new OutputLayer(shape, tokens),
        ]);
        RegisterComponents();
    }

    /// <inheritdoc/>
    public ModuleList<nn.Module<Tensor, Tensor>> Layers => layers;

    /// <inheritdoc/>
    public override Tensor forward(Tensor input)
    {
        foreach (nn.Module<Tensor, Tensor> layer in layers) input = layer.call(input);
        return input;
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        if (disposing) rotary?.Dispose();
        base.Dispose(disposing);
    }

    internal static nn.Module<Tensor, Tensor> Norm(GptConfiguration shape) => shape.Normalization == Normalization.Layer
        ? nn.LayerNorm(shape.Width, bias: shape.HasBias)
        : new RmsNorm(shape.Width);

    internal static Linear Linear(GptConfiguration shape, int inputs, int outputs) => Linear(shape, inputs, outputs, InitialDeviation);

    /// <summary>A layer whose output is added to the residual stream: the sum of all of them keeps its size however many there are.</summary>
    internal static Linear ResidualLinear(GptConfiguration shape, int inputs, int outputs) =>
        Linear(shape, inputs, outputs, InitialDeviation / Math.Sqrt(2 * shape.Layers));

    internal static Embedding Embedding(int rows, int width)
    {
        Embedding table = nn.Embedding(rows, width);
        nn.init.normal_(table.weight!, 0, InitialDeviation);
        return table;
    }

    private static Linear Linear(GptConfiguration shape, int inputs, int outputs, double deviation)
    {
        Linear linear = nn.Linear(inputs, outputs, shape.HasBias);
        nn.init.normal_(linear.weight, 0, deviation);
        if (linear.bias is { } bias) nn.init.zeros_(bias);
        return linear;
    }
}

/// <summary>The first layer: token ids [n, t] to vectors [n, t, w].</summary>
internal sealed class InputLayer : nn.Module<Tensor, Tensor>
{
    private readonly nn.Module<Tensor, Tensor> tokens;
    private readonly nn.Module<Tensor, Tensor>? positions;
    private readonly nn.Module<Tensor, Tensor> dropout;
    private readonly int context;

    internal InputLayer(GptConfiguration shape, Embedding tokens)
        : base(nameof(InputLayer))
    {
        this.tokens = tokens;
        if (shape.Positions == PositionEncoding.Learned) positions = Gpt.Embedding(shape.Context, shape.Width);
        dropout = nn.Dropout(shape.Dropout);
        context = shape.Context;
        RegisterComponents();
    }

    /// <inheritdoc/>
    public override Tensor forward(Tensor input)
    {
        long length = input.shape[1];
        if (positions is not null && length > context) throw new ArgumentException($"{length} tokens are more than the model's context of {context}", nameof(input));
        using var scope = NewDisposeScope();
        Tensor vectors = tokens.call(input);
        if (positions is not null) vectors += positions.call(arange(length, int64, input.device));
        return dropout.call(vectors).MoveToOuterDisposeScope();
    }
}

/// <summary>The last layer: vectors [n, t, w] to logits [n, t, vocabulary].</summary>
internal sealed class OutputLayer : nn.Module<Tensor, Tensor>
{
    private readonly nn.Module<Tensor, Tensor> norm;
    private readonly nn.Module<Tensor, Tensor> projection;

    internal OutputLayer(GptConfiguration shape, Embedding tokens)
        : base(nameof(OutputLayer))
    {
        norm = Gpt.Norm(shape);
        // Not tokens.weight: TorchSharp makes a new object for each call, and optimizers tell parameters apart by object.
        projection = shape.TiesEmbeddings
            ? nn.Linear(tokens.parameters().Single())
            : Gpt.Linear(shape with { HasBias = false }, shape.Width, shape.Vocabulary);
        RegisterComponents();
    }

    /// <inheritdoc/>
    public override Tensor forward(Tensor input)
    {
        using var scope = NewDisposeScope();
        return projection.call(norm.call(input)).MoveToOuterDisposeScope();
    }
}

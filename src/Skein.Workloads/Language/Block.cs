using static TorchSharp.torch;

namespace Skein.Workloads.Language;

/// <summary>
/// One layer of a <see cref="Gpt"/>, [n, t, w] to [n, t, w]: attention, then two linear layers on each position, each reading a normalized
/// input and added to it.
/// </summary>
internal sealed class Block : nn.Module<Tensor, Tensor>
{
    private readonly nn.Module<Tensor, Tensor> norm1;
    private readonly nn.Module<Tensor, Tensor> attention;
    private readonly nn.Module<Tensor, Tensor> norm2;
    private readonly nn.Module<Tensor, Tensor> mlp;

    internal Block(GptConfiguration shape, RotaryPositions? rotary)
        : base(nameof(Block))
    {
        norm1 = Gpt.Norm(shape);
        attention = new CausalAttention(shape, rotary);
        norm2 = Gpt.Norm(shape);
        mlp = new FeedForward(shape);
        RegisterComponents();
    }

    /// <inheritdoc/>
    public override Tensor forward(Tensor input)
    {
        // The graph keeps what the backward pass needs; all else is freed with the block.
        using var scope = NewDisposeScope();
        Tensor attended = input + attention.call(norm1.call(input));
        return (attended + mlp.call(norm2.call(attended))).MoveToOuterDisposeScope();
    }
}

/// <summary>
/// Each position reads from itself and those before it (Vaswani et al. 2017, section 3.2). It has as many heads as its queries are wide:
/// with linear layers that hold some of the heads, the same code computes these.
/// </summary>
internal sealed class CausalAttention : nn.Module<Tensor, Tensor>
{
    private readonly nn.Module<Tensor, Tensor> query;
    private readonly nn.Module<Tensor, Tensor> key;
    private readonly nn.Module<Tensor, Tensor> value;
    private readonly nn.Module<Tensor, Tensor> output;
    private readonly nn.Module<Tensor, Tensor> dropout;
    private readonly RotaryPositions? rotary;
    private readonly int headWidth;
    private readonly double attentionDropout;

    internal CausalAttention(GptConfiguration shape, RotaryPositions? rotary)
        : base(nameof(CausalAttention))
    {
        query = Gpt.Linear(shape, shape.Width, shape.Width);
        key = Gpt.Linear(shape, shape.Width, shape.Width);
        value = Gpt.Linear(shape, shape.Width, shape.Width);
        output = Gpt.ResidualLinear(shape, shape.Width, shape.Width);
        dropout = nn.Dropout(shape.Dropout);
        this.rotary = rotary;
        headWidth = shape.HeadWidth;
        attentionDropout = shape.Dropout;
        RegisterComponents();
    }

    /// <inheritdoc/>
    public override Tensor forward(Tensor input)
    {
        using var scope = NewDisposeScope();
        Tensor queries = Heads(query.call(input));      // [n, t, h, d]
        Tensor keys = Heads(key.call(input));
        Tensor values = Heads(value.call(input));
        if (rotary is not null) (queries, keys) = (rotary.Apply(queries), rotary.Apply(keys));

        // Without dropout LibTorch never holds the [t, t] weights (Dao et al. 2022, "FlashAttention"). TorchSharp spells causal so.
        Tensor mixed = nn.functional.scaled_dot_product_attention(
            queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2), p: training ? attentionDropout : 0, is_casual: true);
        return dropout.call(output.call(mixed.transpose(1, 2).flatten(2))).MoveToOuterDisposeScope();
    }

    private Tensor Heads(Tensor projected) => projected.view(projected.shape[0], projected.shape[1], -1, headWidth);
}

/// <summary>Two linear layers with GELU between them, four times as wide inside.</summary>
internal sealed class FeedForward : nn.Module<Tensor, Tensor>
{
    private readonly nn.Module<Tensor, Tensor> up;
    private readonly nn.Module<Tensor, Tensor> down;
    private readonly nn.Module<Tensor, Tensor> dropout;

    internal FeedForward(GptConfiguration shape)
        : base(nameof(FeedForward))
    {
        up = Gpt.Linear(shape, shape.Width, 4 * shape.Width);
        down = Gpt.ResidualLinear(shape, 4 * shape.Width, shape.Width);
        dropout = nn.Dropout(shape.Dropout);
        RegisterComponents();
    }

    /// <inheritdoc/>
    public override Tensor forward(Tensor input)
    {
        using var scope = NewDisposeScope();
        return dropout.call(down.call(nn.functional.gelu(up.call(input)))).MoveToOuterDisposeScope();
    }
}

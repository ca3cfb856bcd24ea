using Skein.Training.Data;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.Tests.TensorParallelism;

/// <summary>A small decoder-only transformer with the names of <c>TensorParallelPlan.Transformer</c>: ids [n, t] to logits [n, t, v].</summary>
internal sealed class Transformer : nn.Module<Tensor, Tensor>, ILayeredModel
{
    public const int Width = 24;
    public const int Heads = 12;
    public const int Context = 12;

    private readonly ModuleList<nn.Module<Tensor, Tensor>> layers;

    public Transformer(int vocabulary = 26, int blocks = 2, bool tied = true, double dropout = 0)
        : base(nameof(Transformer))
    {
        Embedding tokens = nn.Embedding(vocabulary, Width);
        layers = nn.ModuleList<nn.Module<Tensor, Tensor>>(
        [
            new Input(tokens, dropout),
            .. Enumerable.Range(0, blocks).Select(_ => new Block(dropout)),
            new Output(tied ? nn.Linear(tokens.parameters().Single()) : nn.Linear(Width, vocabulary)),
        ]);
        RegisterComponents();
    }

    public ModuleList<nn.Module<Tensor, Tensor>> Layers => layers;

    public static Func<Tensor, Tensor, Tensor> Loss { get; } = static (output, labels) => nn.functional.cross_entropy(output.flatten(0, -2), labels.flatten());

    /// <summary>Sequences that a model can learn: each token is the one before plus a step that its sequence keeps.</summary>
    public static InMemoryDataset Data(int count = 48, int vocabulary = 26, int length = Context) => Models.Seeded(5, () =>
    {
        using Tensor start = randint(0, vocabulary, [count, 1]);
        using Tensor step = randint(1, 4, [count, 1]);
        using Tensor ids = (start + (step * arange(length + 1))).remainder(vocabulary);
        return new InMemoryDataset(ids.narrow(1, 0, length).contiguous(), ids.narrow(1, 1, length).contiguous());
    });

    public override Tensor forward(Tensor input)
    {
        foreach (nn.Module<Tensor, Tensor> layer in layers) input = layer.call(input);
        return input;
    }

    private sealed class Input : nn.Module<Tensor, Tensor>
    {
        private readonly nn.Module<Tensor, Tensor> tokens;
        private readonly nn.Module<Tensor, Tensor> positions;
        private readonly nn.Module<Tensor, Tensor> dropout;

        public Input(Embedding tokens, double dropped)
            : base(nameof(Input))
        {
            this.tokens = tokens;
            positions = nn.Embedding(Context, Width);
            dropout = nn.Dropout(dropped);
            RegisterComponents();
        }

        public override Tensor forward(Tensor input)
        {
            using var scope = NewDisposeScope();
            return dropout.call(tokens.call(input) + positions.call(arange(input.shape[1], int64))).MoveToOuterDisposeScope();
        }
    }

    private sealed class Block : nn.Module<Tensor, Tensor>
    {
        private readonly nn.Module<Tensor, Tensor> norm1;
        private readonly nn.Module<Tensor, Tensor> attention;
        private readonly nn.Module<Tensor, Tensor> norm2;
        private readonly nn.Module<Tensor, Tensor> mlp;

        public Block(double dropped)
            : base(nameof(Block))
        {
            norm1 = nn.LayerNorm(Width);
            attention = new Attention(dropped);
            norm2 = nn.LayerNorm(Width);
            mlp = new FeedForward();
            RegisterComponents();
        }

        public override Tensor forward(Tensor input)
        {
            using var scope = NewDisposeScope();
            Tensor attended = input + attention.call(norm1.call(input));
            return (attended + mlp.call(norm2.call(attended))).MoveToOuterDisposeScope();
        }
    }

    private sealed class Attention : nn.Module<Tensor, Tensor>
    {
        private readonly nn.Module<Tensor, Tensor> query;
        private readonly nn.Module<Tensor, Tensor> key;
        private readonly nn.Module<Tensor, Tensor> value;
        private readonly nn.Module<Tensor, Tensor> output;
        private readonly nn.Module<Tensor, Tensor> dropout;

        public Attention(double dropped)
            : base(nameof(Attention))
        {
            query = nn.Linear(Width, Width);
            key = nn.Linear(Width, Width);
            value = nn.Linear(Width, Width);
            output = nn.Linear(Width, Width);
            dropout = nn.Dropout(dropped);
            RegisterComponents();
        }

        public override Tensor forward(Tensor input)
        {
            using var scope = NewDisposeScope();
            Tensor mixed = nn.functional.scaled_dot_product_attention(Split(query.call(input)), Split(key.call(input)), Split(value.call(input)), is_casual: true);
            return dropout.call(output.call(mixed.transpose(1, 2).flatten(2))).MoveToOuterDisposeScope();
        }

        private static Tensor Split(Tensor projected) => projected.view(projected.shape[0], projected.shape[1], -1, Width / Heads).transpose(1, 2);
    }

    private sealed class FeedForward : nn.Module<Tensor, Tensor>
    {
        private readonly nn.Module<Tensor, Tensor> up;
        private readonly nn.Module<Tensor, Tensor> down;

        public FeedForward()
            : base(nameof(FeedForward))
        {
            up = nn.Linear(Width, 4 * Width);
            down = nn.Linear(4 * Width, Width);
            RegisterComponents();
        }

        public override Tensor forward(Tensor input)
        {
            using var scope = NewDisposeScope();
            return down.call(nn.functional.gelu(up.call(input))).MoveToOuterDisposeScope();
        }
    }

    private sealed class Output : nn.Module<Tensor, Tensor>
    {
        private readonly nn.Module<Tensor, Tensor> norm;
        private readonly nn.Module<Tensor, Tensor> projection;

        public Output(Linear projection)
            : base(nameof(Output))
        {
            norm = nn.LayerNorm(Width);
            this.projection = projection;
            RegisterComponents();
        }

        public override Tensor forward(Tensor input)
        {
            using var scope = NewDisposeScope();
            return projection.call(norm.call(input)).MoveToOuterDisposeScope();
        }
    }
}

using Skein.Training.Data;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.Tests.Pipeline;

/// <summary>Models that are compositions of layers.</summary>
internal static class LayeredModels
{
    /// <summary>Seven layers, for 20 features and 5 classes.</summary>
    public static nn.Module<Tensor, Tensor> Mlp() => nn.Sequential(
        nn.Linear(20, 32), nn.Tanh(), nn.Linear(32, 24), nn.Tanh(), nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 5));

    /// <summary>Nine layers, most of them of several modules; the batch is not the first dimension but in it.</summary>
    public static nn.Module<Tensor, Tensor> Deep() => nn.Sequential(
        nn.Linear(20, 24), Block(24), Block(24), nn.LayerNorm(24), Block(24), Block(24), nn.Tanh(), Block(24), nn.Linear(24, 5));

    /// <summary>The same weight in the first and the last layer.</summary>
    public static Layered Tied()
    {
        var weight = new Parameter(randn(11, 16) * 0.3);
        return new Layered(new Lookup(weight), Block(16), Block(16), Block(16), new Project(weight));
    }

    /// <summary>Numbers from 0 to 10, and which of 11 comes next.</summary>
    public static InMemoryDataset Tokens() => Models.Seeded(12, static () => new InMemoryDataset(randint(0, 11, [100]), randint(0, 11, [100])));

    private static Sequential Block(int width) => nn.Sequential(("expand", nn.Linear(width, 2 * width)), ("activation", nn.Tanh()), ("contract", nn.Linear(2 * width, width)));

    internal sealed class Layered : nn.Module<Tensor, Tensor>, ILayeredModel
    {
        private readonly ModuleList<nn.Module<Tensor, Tensor>> layers;

        public Layered(params nn.Module<Tensor, Tensor>[] layers) : base(nameof(Layered))
        {
            this.layers = new ModuleList<nn.Module<Tensor, Tensor>>(layers);
            RegisterComponents();
        }

        public ModuleList<nn.Module<Tensor, Tensor>> Layers => layers;

        public override Tensor forward(Tensor input) => layers.Aggregate(input, static (value, layer) => layer.call(value));
    }

    private sealed class Lookup : nn.Module<Tensor, Tensor>
    {
        private readonly Parameter weight;

        public Lookup(Parameter weight) : base(nameof(Lookup))
        {
            this.weight = weight;
            RegisterComponents();
        }

        public override Tensor forward(Tensor input) => weight.index_select(0, input);
    }

    private sealed class Project : nn.Module<Tensor, Tensor>
    {
        private readonly Parameter weight;

        public Project(Parameter weight) : base(nameof(Project))
        {
            this.weight = weight;
            RegisterComponents();
        }

        public override Tensor forward(Tensor input) => nn.functional.linear(input, weight);
    }
}

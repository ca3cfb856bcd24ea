using System.Globalization;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.Pipeline;

/// <summary>
/// A model cut into chunks of consecutive layers, and this rank's part of it: the layers of its chunks stay, the memory of all
/// others is freed.
/// </summary>
internal sealed class PipelineStage
{
    private readonly int[] firstEntries;
    private ChunkModule? lastChunk;

    /// <param name="model">What <see cref="ModuleTree.LayersOf"/> knows to take apart.</param>
    /// <param name="layersPerChunk">The number of layers of each chunk.</param>
    /// <param name="stages">The number of stages; chunk c is on stage c modulo it.</param>
    /// <param name="stage">This rank's.</param>
    public PipelineStage(nn.Module model, IReadOnlyList<int> layersPerChunk, int stages, int stage)
    {
        IReadOnlyList<(string Name, nn.Module<Tensor, Tensor> Layer)> layers = ModuleTree.LayersOf(model);
        int[] stageOf = [.. layersPerChunk.SelectMany((count, chunk) => Enumerable.Repeat(chunk % stages, count))];
        int[] mine = [.. Enumerable.Range(0, layers.Count).Where(layer => stageOf[layer] == stage)];
        Module = nn.Sequential(mine.Select(layer => (Key(layer), layers[layer].Layer)));
        firstEntries = [0, .. layersPerChunk.Select((_, chunk) => mine.Count(layer => layer < layersPerChunk.Take(chunk + 1).Sum()))];

        var places = new Dictionary<Tensor, List<(int Layer, string Name)>>(ModelParameters.Identity);
        for (int layer = 0; layer < layers.Count; layer++)
        {
            foreach ((string name, Parameter parameter) in layers[layer].Layer.named_parameters())
            {
                if (!places.TryGetValue(parameter, out List<(int, string)>? list)) places[parameter] = list = [];
                list.Add((layer, name));
            }
        }

        Parameters = [.. model.named_parameters().Select(entry =>
        {
            if (!places.TryGetValue(entry.parameter, out List<(int Layer, string Name)>? list))
            {
                throw new ArgumentException($"the parameter '{entry.name}' belongs to none of the model's layers, so that no stage of a pipeline would have it: a model's forward has to be its layers, one after the other");
            }

            return new PlacedParameter(entry.name, entry.parameter, entry.parameter.shape,
                [.. list.GroupBy(place => stageOf[place.Layer]).Select(static group => (group.Key, Key(group.First().Layer) + "." + group.First().Name))]);
        })];
        Buffers = [.. model.named_buffers().Select(entry =>
        {
            bool IsIn(int layer) => layers[layer].Layer.buffers().Contains(entry.buffer, ModelParameters.Identity);
            int layer = Enumerable.Range(0, layers.Count).FirstOrDefault(IsIn, -1);
            // What belongs to no layer stays on every stage.
            return (entry.name, entry.buffer, entry.buffer.shape, layer < 0 ? 0 : stageOf[layer]);
        })];
        int[] idle = [.. Enumerable.Range(0, stages).Where(each => !Parameters.Any(parameter => parameter.IsTrained && parameter.Copies.Any(copy => copy.Stage == each)))];
        // Without any the model is there to be evaluated.
        if (idle.Length > 0 && idle.Length < stages)
        {
            throw new ArgumentException(
                $"stage {idle[0]} of the pipeline has no parameter to train: the {layersPerChunk.Count} chunks have {string.Join(", ", layersPerChunk)} layers; use fewer stages, or give the layers of each chunk");
        }

        Free(layers.Select(static entry => entry.Layer).Where((_, layer) => stageOf[layer] != stage));
    }

    /// <summary>This rank's layers; named by their place in the model.</summary>
    public Sequential Module { get; }

    /// <summary>The model's last chunk as a module; on the last stage.</summary>
    public nn.Module<Tensor, Tensor> LastChunk => lastChunk ??= new ChunkModule(this);

    /// <summary>The whole model's parameters, in its order.</summary>
    public IReadOnlyList<PlacedParameter> Parameters { get; }

    /// <summary>The whole model's buffers, in its order; a tensor has values on its stage.</summary>
    public IReadOnlyList<(string Name, Tensor Tensor, long[] Shape, int Stage)> Buffers { get; }

    /// <summary>Runs the layers of one of the model's chunks, which is on this stage.</summary>
    public Tensor Forward(int chunk, Tensor input)
    {
        using DisposeScope scope = NewDisposeScope();
        Tensor output = input;
        for (int entry = firstEntries[chunk]; entry < firstEntries[chunk + 1]; entry++)
        {
            Tensor next = ((nn.Module<Tensor, Tensor>)Module[entry]).call(output);
            // The graph has what it needs of it.
            if (!ReferenceEquals(output, input) && !ReferenceEquals(output, next)) output.Dispose();
            output = next;
        }

        return ReferenceEquals(output, input) ? output.alias().MoveToOuterDisposeScope() : output.MoveToOuterDisposeScope();
    }

    private static string Key(int layer) => layer.ToString(CultureInfo.InvariantCulture);

    private void Free(IEnumerable<nn.Module> others)
    {
        using var noGradient = no_grad();
        var kept = new HashSet<Tensor>(Module.parameters().Concat(Module.buffers()), ModelParameters.Identity);
        foreach (nn.Module layer in others)
        {
            foreach (Tensor tensor in layer.parameters().Cast<Tensor>().Concat(layer.buffers()))
            {
                if (!kept.Add(tensor)) continue;
                using DisposeScope scope = NewDisposeScope();
                tensor.set_(empty(0, tensor.dtype, tensor.device));
            }
        }
    }

    private sealed class ChunkModule(PipelineStage stage) : nn.Module<Tensor, Tensor>(nameof(ChunkModule))
    {
        public override Tensor forward(Tensor input) => stage.Forward(stage.firstEntries.Length - 2, input);
    }
}

/// <summary>A parameter of the whole model.</summary>
/// <param name="Name">In the model.</param>
/// <param name="Parameter">What stands for it here, without values on stages that have no copy; the same under each name of a tied one.</param>
/// <param name="Shape">Of the whole of it.</param>
/// <param name="Copies">The stages that have it, in the order of the layers, and its name there; more than one where layers on several stages share it.</param>
internal sealed record PlacedParameter(string Name, Parameter Parameter, long[] Shape, IReadOnlyList<(int Stage, string Name)> Copies)
{
    /// <summary>Whether it requires a gradient now.</summary>
    public bool IsTrained => Parameter.requires_grad;
}

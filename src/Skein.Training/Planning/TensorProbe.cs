using System.Diagnostics;
using Skein.Training.TensorParallelism;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.Planning;

/// <summary>
/// Watches forward passes of a model for what tensor-parallel ranks would divide: how much of a layer's time and memory is inside of
/// modules with divided parameters, and what the ranks would exchange. Not thread-safe.
/// </summary>
internal sealed class TensorProbe : IDisposable
{
    private readonly List<Action> unhook = [];
    private readonly HashSet<nn.Module> divided = new(ReferenceEqualityComparer.Instance);
    private readonly TensorParallelPlan? plan;
    private readonly (string Name, nn.Module Module, TensorParallelRule Rule)[] matches;
    private long wholeOutputs;

    public TensorProbe(nn.Module model, IReadOnlyList<(string Name, nn.Module<Tensor, Tensor> Layer)> layers, TensorParallelPlan? plan)
    {
        this.plan = plan;
        matches = plan is null ? [] : [.. model.named_modules()
            .Select(entry => (entry.name, entry.module, plan.Rules.FirstOrDefault(rule => rule.Matches(entry.name))!))
            .Where(static entry => entry.Item3 is not null)];
        foreach ((string name, nn.Module module, TensorParallelRule rule) in matches)
        {
            if (HasParts(rule)) divided.Add(module);
            Watch(name, (nn.Module<Tensor, Tensor>)module, rule);
        }

        foreach ((string name, nn.Module<Tensor, Tensor> layer) in layers)
        {
            foreach (nn.Module<Tensor, Tensor> part in Parts(name, layer)) Time(part);
        }
    }

    /// <summary>Seconds spent in divided parts.</summary>
    public double Seconds { get; private set; }

    /// <summary>Bytes that the divided parts left in use.</summary>
    public long Bytes { get; private set; }

    /// <summary>The collectives since <see cref="Begin"/>, with bytes of the whole batch.</summary>
    public List<TensorCollective> Collectives { get; } = [];

    /// <summary>Whether the loss is computed from parts of the logits.</summary>
    public bool DividesLogits => matches.Any(static match => match.Rule.Kind == TensorParallelKind.Head);

    /// <summary>A layer's forward pass begins.</summary>
    public void Begin()
    {
        (Seconds, Bytes, wholeOutputs) = (0, 0, 0);
        Collectives.Clear();
    }

    /// <summary>Whether tensor-parallel ranks divide a parameter of this module.</summary>
    public bool Divides(nn.Module owner, Parameter parameter) => divided.Contains(owner) && (parameter.dim() > 1 || !IsRow(owner));

    /// <summary>What the ranks have to share; null without a plan.</summary>
    public IReadOnlyList<TensorLimit>? Limits() => plan is null ? null : [.. matches.SelectMany(Limit)
        .GroupBy(static limit => (limit.Length, limit.What, limit.Equally)).Select(static alike => alike.First())];

    public void Dispose()
    {
        foreach (Action remove in unhook) remove();
        unhook.Clear();
    }

    private static bool HasParts(TensorParallelRule rule) => rule.Kind is TensorParallelKind.Column or TensorParallelKind.GatheredColumn or TensorParallelKind.Row or TensorParallelKind.Embedding or TensorParallelKind.Head;

    private bool IsRow(nn.Module module) => matches.Any(match => ReferenceEquals(match.Module, module) && match.Rule.Kind == TensorParallelKind.Row);

    private static IEnumerable<TensorLimit> Limit((string Name, nn.Module Module, TensorParallelRule Rule) match)
    {
        (string name, nn.Module module, TensorParallelRule rule) = match;
        long[] shape = HasParts(rule) ? module.parameters().First().shape : [];
        switch (rule.Kind)
        {
            case TensorParallelKind.Column:
                yield return rule.Heads > 1 ? new TensorLimit(name, rule.Heads, "heads", true) : new TensorLimit(name, shape[0], "outputs", true);
                break;
            case TensorParallelKind.Row:
                yield return new TensorLimit(name, shape[1], "inputs", true);
                break;
            case TensorParallelKind.GatheredColumn or TensorParallelKind.Head:
                yield return new TensorLimit(name, shape[0], "outputs", false);
                break;
            case TensorParallelKind.Embedding:
                yield return new TensorLimit(name, shape[0], "rows", false);
                break;
            default:
                break;
        }
    }

    // What lies between two divided modules works on divided features: so the whole of the submodule that holds them counts.
    private IEnumerable<nn.Module<Tensor, Tensor>> Parts(string name, nn.Module<Tensor, Tensor> layer)
    {
        if (plan is null) return [];
        // Between the layers of an MLP.
        if (divided.Contains(layer) || !layer.parameters().Any()) return [layer];
        return layer.named_children().Select(static child => child.module).OfType<nn.Module<Tensor, Tensor>>()
            .Where(child => child.named_modules().Select(static entry => entry.module).Append(child).Any(divided.Contains));
    }

    private void Time(nn.Module<Tensor, Tensor> part)
    {
        long start = 0, before = 0;
        unhook.Add(part.register_forward_pre_hook((_, input) =>
        {
            before = ProcessMemory.InUse;
            start = Stopwatch.GetTimestamp();
            return input;
        }).remove);
        unhook.Add(part.register_forward_hook((_, _, output) =>
        {
            Seconds += Stopwatch.GetElapsedTime(start).TotalSeconds;
            // The sum over the ranks is whole on each of them.
            Bytes += Math.Max(0, ProcessMemory.InUse - before - wholeOutputs);
            wholeOutputs = 0;
            return output;
        }).remove);
    }

    // What PartitionedModel puts around the modules.
    private void Watch(string name, nn.Module<Tensor, Tensor> module, TensorParallelRule rule)
    {
        bool entered = matches.Any(match => match.Rule.Kind == TensorParallelKind.Region && name.StartsWith(match.Name + ".", StringComparison.Ordinal));
        unhook.Add(module.register_forward_hook((_, input, output) =>
        {
            if (rule.Kind is TensorParallelKind.Row or TensorParallelKind.Embedding)
            {
                Collectives.Add(new TensorCollective(CollectiveKind.AllReduce, Size(output), InBackward: false));
                wholeOutputs += Size(output);
            }

            if (rule.Kind == TensorParallelKind.GatheredColumn) Collectives.Add(new TensorCollective(CollectiveKind.AllGather, Size(output), InBackward: false));
            if (rule.Kind == TensorParallelKind.Region || (rule.Kind is TensorParallelKind.Column or TensorParallelKind.GatheredColumn or TensorParallelKind.Head && !entered && input.requires_grad))
            {
                Collectives.Add(new TensorCollective(CollectiveKind.AllReduce, Size(input), InBackward: true));
            }

            if (rule.Kind == TensorParallelKind.Head)
            {
                // Of each position the largest logit, then two sums (ParallelCrossEntropy).
                long position = Size(output) / output.shape[^1];
                Collectives.Add(new TensorCollective(CollectiveKind.AllReduce, position, InBackward: false));
                Collectives.Add(new TensorCollective(CollectiveKind.AllReduce, 2 * position, InBackward: false));
            }

            return output;
        }).remove);
    }

    private static long Size(Tensor tensor) => tensor.numel() * tensor.ElementSize;
}

using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.TensorParallelism;

/// <summary>How the ranks of a tensor group divide a model: what its modules become, by name. Immutable.</summary>
public sealed record TensorParallelPlan
{
    /// <summary>A plan of these rules; of those that match a module's name the first one counts.</summary>
    public TensorParallelPlan(params ReadOnlySpan<TensorParallelRule> rules) => Rules = rules.ToArray();

    /// <summary>The rules, in order.</summary>
    public IReadOnlyList<TensorParallelRule> Rules { get; }

    /// <summary>
    /// Whether what lies between the divided layers works on slices of the sequence (Korthikanti et al. 2022): the same bytes travel, and
    /// activations there take 1/T of the memory. Activations are then [n, t, w], and T divides t.
    /// </summary>
    public bool SequenceParallel { get; init; }

    /// <summary>
    /// For a transformer whose modules are named <c>tokens</c>, <c>positions</c>, <c>attention.query</c>, <c>.key</c>, <c>.value</c> and
    /// <c>.output</c>, <c>mlp.up</c> and <c>.down</c>, <c>norm…</c>, <c>dropout</c> and <c>projection</c> (to logits), or a part of its
    /// layers. The loss has to be the mean cross-entropy.
    /// </summary>
    /// <param name="heads">The attention heads of each layer; a multiple of the number of ranks.</param>
    public static TensorParallelPlan Transformer(int heads)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(heads, 1);
        return new TensorParallelPlan(
            Rule("tokens", TensorParallelKind.Embedding),
            Rule("positions", TensorParallelKind.Positions),
            Rule("attention", TensorParallelKind.Region),
            Rule("attention.query", TensorParallelKind.Column, heads),
            Rule("attention.key", TensorParallelKind.Column, heads),
            Rule("attention.value", TensorParallelKind.Column, heads),
            Rule("attention.output", TensorParallelKind.Row),
            Rule("mlp.up", TensorParallelKind.Column),
            Rule("mlp.down", TensorParallelKind.Row),
            Rule("norm*", TensorParallelKind.Sequence),
            Rule("dropout", TensorParallelKind.Sequence),
            Rule("projection", TensorParallelKind.Head));
    }

    /// <summary>
    /// For linear layers with elementwise activations between them: the ranks divide the outputs of the first, the inputs of the second,
    /// and so on by pairs; a last one without a partner has its outputs collected. For any loss.
    /// </summary>
    /// <param name="model">A <c>nn.Sequential</c>.</param>
    /// <exception cref="ArgumentException">It is something else, or has something between a pair of layers that needs the whole vector.</exception>
    public static TensorParallelPlan Mlp(nn.Module model)
    {
        ArgumentNullException.ThrowIfNull(model);
        if (model is not Sequential) throw new ArgumentException($"only a Sequential has its layers in a known order, not {model.GetType().Name}: list the rules of a {nameof(TensorParallelPlan)} by hand", nameof(model));
        (string Name, nn.Module Module)[] children = [.. model.named_children()];
        int linears = children.Count(static child => child.Module is Linear);
        var rules = new List<TensorParallelRule>();
        foreach ((string name, nn.Module module) in children)
        {
            bool divided = rules.Count % 2 == 1;
            if (module is not Linear)
            {
                if (module.parameters().Any() || (divided && !IsElementwise(module)))
                {
                    throw new ArgumentException($"module '{name}' is a {module.GetType().Name}, which is neither linear nor elementwise: list the rules of a {nameof(TensorParallelPlan)} by hand", nameof(model));
                }

                continue;
            }

            bool alone = !divided && rules.Count == linears - 1;
            rules.Add(Rule(name, divided ? TensorParallelKind.Row : alone ? TensorParallelKind.GatheredColumn : TensorParallelKind.Column));
        }

        return new TensorParallelPlan(rules.ToArray());
    }

    // All optional: a pipeline stage has only some of the modules.
    private static TensorParallelRule Rule(string pattern, TensorParallelKind kind, int heads = 1) => new(pattern, kind) { Heads = heads, Optional = true };

    private static bool IsElementwise(nn.Module module) =>
        module is ReLU or ReLU6 or LeakyReLU or ELU or SELU or CELU or GELU or SiLU or Mish or Tanh or Sigmoid or Softplus or Hardswish or Identity;
}

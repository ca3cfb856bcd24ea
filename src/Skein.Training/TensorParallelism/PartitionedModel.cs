using Skein.Training.Gradients;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.TensorParallelism;

/// <summary>
/// A model whose modules have become what a plan says. Each parameter stays the object that it was, and holds this rank's part;
/// parameters that were one stay one.
/// </summary>
internal sealed class PartitionedModel
{
    private readonly nn.Module model;
    private readonly TensorParallelPlan plan;
    private readonly ParallelRegion region;
    private readonly int ranks;
    private readonly Dictionary<string, ParameterPartition> partitions = [];
    private readonly HashSet<Parameter> divided = new(ModelParameters.Identity);
    private readonly HashSet<Parameter> sliced = new(ModelParameters.Identity);
    // Parts by the address of the whole: what tied parameters have in common.
    private readonly Dictionary<nint, (ParameterPartition Partition, Tensor Part)> parts = [];

    /// <summary>Divides <paramref name="model"/>.</summary>
    /// <exception cref="ArgumentException">The plan does not fit the model; the same on every rank.</exception>
    public PartitionedModel(nn.Module model, TensorParallelPlan plan, ParallelRegion region)
    {
        this.model = model;
        this.plan = plan;
        this.region = region;
        ranks = region.Collectives.WorldSize;
        (string Name, nn.Module Module, TensorParallelRule Rule)[] matches = Match();
        foreach ((string name, nn.Module module, TensorParallelRule rule) in matches) Check(name, module, rule);
        if (region.SequenceParallel) CheckCoverage(matches);
        // Before any of them changes: the address is gone afterwards.
        var wholes = new Dictionary<Parameter, nint>(ModelParameters.Identity);
        foreach ((_, nn.Module module, _) in matches)
        {
            foreach (Parameter parameter in module.parameters()) wholes[parameter] = BorrowedTensor.Address(parameter);
        }

        string[] entered = [.. matches.Where(static match => match.Rule.Kind == TensorParallelKind.Region).Select(static match => match.Name + ".")];
        foreach ((string name, nn.Module module, TensorParallelRule rule) in matches)
        {
            Apply(name, module, rule, wholes, entersRegion: !entered.Any(prefix => name.StartsWith(prefix, StringComparison.Ordinal)));
        }

        foreach ((_, Tensor part) in parts.Values) part.Dispose();
    }

    /// <summary>The width of the whole output that the last layer's ranks have parts of; null without a <see cref="TensorParallelKind.Head"/>.</summary>
    public long? Vocabulary { get; private set; }

    /// <summary>How the parameter of that name is divided; null if it is whole.</summary>
    public ParameterPartition? PartitionOf(string name) => partitions.TryGetValue(name, out ParameterPartition partition) ? partition : null;

    /// <summary>Whether each rank has a part of it.</summary>
    public bool IsDivided(Parameter parameter) => divided.Contains(parameter);

    /// <summary>Whether a rank's gradient is that of its slice of the sequence only.</summary>
    public bool IsSliced(Parameter parameter) => sliced.Contains(parameter);

    private (string, nn.Module, TensorParallelRule)[] Match()
    {
        (string Name, nn.Module Module)[] modules = [.. model.named_modules()];
        var matches = modules
            .Select(entry => (entry.Name, entry.Module, Rule: plan.Rules.FirstOrDefault(rule => rule.Matches(entry.Name))))
            .Where(static entry => entry.Rule is not null)
            .ToArray();
        foreach (TensorParallelRule rule in plan.Rules)
        {
            if (rule.Optional || matches.Any(match => ReferenceEquals(match.Rule, rule))) continue;
            throw new ArgumentException($"the plan's rule '{rule}' matches no module that an earlier rule leaves; the model has {Names(modules)}");
        }

        if (matches.Length == 0) throw new ArgumentException($"no rule of the plan ({string.Join(", ", plan.Rules)}) matches a module; the model has {Names(modules)}");
        return matches!;
    }

    private static string Names((string Name, nn.Module)[] modules) => string.Join(", ", modules.Take(40).Select(static entry => $"'{entry.Name}'")) + (modules.Length > 40 ? ", …" : "");

    private void Check(string name, nn.Module module, TensorParallelRule rule)
    {
        switch (rule.Kind)
        {
            case TensorParallelKind.Column or TensorParallelKind.GatheredColumn or TensorParallelKind.Head:
                long outputs = As<Linear>(name, module, rule).weight.shape[0];
                if (outputs % rule.Heads != 0) throw new ArgumentException($"module '{name}' has {outputs} outputs, which are not {rule.Heads} heads of equal width ({outputs} = {rule.Heads} * {outputs / rule.Heads} + {outputs % rule.Heads}): give the plan the model's number of heads");
                CheckShare(name, rule.Heads > 1 ? rule.Heads : outputs, rule.Heads > 1 ? "heads" : "outputs", mayDiffer: rule.Kind != TensorParallelKind.Column);
                break;
            case TensorParallelKind.Row:
                CheckShare(name, As<Linear>(name, module, rule).weight.shape[1], "inputs", mayDiffer: false);
                break;
            case TensorParallelKind.Embedding:
                CheckShare(name, As<Embedding>(name, module, rule).parameters().Single().shape[0], "rows", mayDiffer: true);
                break;
            case TensorParallelKind.Sequence:
                if (module.buffers().Any()) throw new ArgumentException($"module '{name}' is a {module.GetType().Name}, which keeps statistics of what it sees, and does not work on each position by itself: the plan's rule '{rule}' cannot hold for it");
                break;
            default:
                As<nn.Module<Tensor, Tensor>>(name, module, rule);
                break;
        }
    }

    private static T As<T>(string name, nn.Module module, TensorParallelRule rule) where T : nn.Module => module as T
        ?? throw new ArgumentException($"module '{name}' is a {module.GetType().Name}, which cannot be divided as the plan's rule '{rule}' says: that takes {(typeof(T).IsGenericType ? "a module of one tensor to one" : $"a {typeof(T).Name}")}");

    private void CheckShare(string name, long length, string what, bool mayDiffer)
    {
        if (mayDiffer ? length >= ranks : length % ranks == 0) return;
        throw new ArgumentException(
            $"module '{name}' has {length} {what}, which {ranks} ranks cannot share{(mayDiffer ? "" : " equally")} ({length} = {ranks} * {length / ranks} + {length % ranks}): " +
            $"choose {(mayDiffer ? $"at most {length} ranks" : $"a number of ranks that divides {length}")}, or leave the module out of the plan");
    }

    // A parameter that works on slices without the plan's saying so would get a part of its gradient.
    private void CheckCoverage((string Name, nn.Module Module, TensorParallelRule Rule)[] matches)
    {
        var known = new HashSet<Parameter>(matches.Where(static match => match.Rule.Kind != TensorParallelKind.Region).SelectMany(static match => match.Module.parameters()), ModelParameters.Identity);
        foreach ((string name, Parameter parameter) in model.named_parameters())
        {
            if (known.Contains(parameter)) continue;
            throw new ArgumentException(
                $"parameter '{name}' belongs to no module that the plan names, so that with sequence parallelism its gradient could be of a slice or of the whole: add a rule of the kind {TensorParallelKind.Sequence} for its module, or turn sequence parallelism off");
        }
    }

    private void Apply(string name, nn.Module module, TensorParallelRule rule, Dictionary<Parameter, nint> wholes, bool entersRegion)
    {
        switch (rule.Kind)
        {
            case TensorParallelKind.Column or TensorParallelKind.GatheredColumn or TensorParallelKind.Head:
                var column = (Linear)module;
                long outputs = Divide($"{name}.weight", column.weight, 0, wholes).Length;
                if (column.bias is not null) Divide($"{name}.bias", column.bias, 0, wholes);
                if (rule.Kind == TensorParallelKind.Head) Vocabulary = outputs;
                Replace(name, module, new ColumnParallelLinear(region, column.weight, column.bias, entersRegion, rule.Kind == TensorParallelKind.GatheredColumn ? outputs : null));
                break;
            case TensorParallelKind.Row:
                var row = (Linear)module;
                Divide($"{name}.weight", row.weight, 1, wholes);
                if (row.bias is not null && region.SequenceParallel) sliced.Add(row.bias);
                Replace(name, module, new RowParallelLinear(region, row.weight, row.bias));
                break;
            case TensorParallelKind.Embedding:
                // Not its property: TorchSharp makes a new object for each call of it.
                Parameter table = module.parameters().Single();
                ParameterPartition rows = Divide($"{name}.weight", table, 0, wholes);
                Replace(name, module, new ParallelEmbedding(region, table, rows.Length));
                break;
            case TensorParallelKind.Region:
                ((nn.Module<Tensor, Tensor>)module).register_forward_pre_hook((_, input) => region.Enter(input));
                break;
            case TensorParallelKind.Sequence when region.SequenceParallel:
                sliced.UnionWith(module.parameters());
                if (module is Dropout dropout) Replace(name, module, new SequenceDropout(region, dropout.p));
                break;
            case TensorParallelKind.Positions when region.SequenceParallel:
                sliced.UnionWith(module.parameters());
                ((nn.Module<Tensor, Tensor>)module).register_forward_pre_hook((_, input) => region.SliceSequence(input, input.dim() - 1));
                break;
            default:
                break;
        }
    }

    private void Replace(string name, nn.Module present, nn.Module<Tensor, Tensor> replacement)
    {
        replacement.train(present.training);
        ModuleTree.Replace(model, name, replacement);
    }

    private ParameterPartition Divide(string name, Parameter parameter, int dimension, Dictionary<Parameter, nint> wholes)
    {
        nint whole = wholes[parameter];
        if (!parts.TryGetValue(whole, out (ParameterPartition Partition, Tensor Part) known))
        {
            known.Partition = new ParameterPartition(dimension, parameter.shape[dimension]);
            using var noGradient = no_grad();
            using Tensor slice = region.Collectives.Slice(parameter, dimension);
            known.Part = slice.clone().DetachFromDisposeScope();
            parts.Add(whole, known);
        }

        if (known.Partition.Dimension != dimension) throw new ArgumentException($"parameter '{name}' is also another module's, which the plan divides along another dimension");
        using (no_grad())
        {
            parameter.grad = null;
            parameter.set_(known.Part);
        }

        divided.Add(parameter);
        return partitions[name] = known.Partition;
    }
}

/// <summary>How the ranks divide a parameter: along one of its dimensions, near-equally, the first ranks one longer.</summary>
/// <param name="Dimension">0 or 1.</param>
/// <param name="Length">That of the whole.</param>
internal readonly record struct ParameterPartition(int Dimension, long Length);

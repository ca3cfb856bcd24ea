using Skein.Collectives;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.Pipeline;

/// <summary>
/// Parameters that layers on several stages share, as an embedding and the last layer do in language models (Press and Wolf
/// 2017). Every one of these stages has a copy; the copies stay equal because their gradients are made so. Not thread-safe.
/// </summary>
internal sealed class TiedParameters(ProcessGroup group)
{
    private readonly List<(int Number, int[] Stages, Parameter Parameter, Parameter Optimized)> tied = [];

    /// <summary>Whether an optimizer updates the copies as such, or others in their place: then these have the gradients, once a step is agreed on.</summary>
    public bool AreOptimized { get; private set; }

    /// <summary>Finds this stage's copies of those that are trained now, by the names that they have in its module.</summary>
    /// <param name="parameters">Of all stages.</param>
    /// <param name="module">This stage.</param>
    /// <param name="optimized">What an optimizer updates in the place of each trained parameter of the module; null: pieces of them.</param>
    public void Find(IReadOnlyList<PlacedParameter> parameters, nn.Module module, IReadOnlyList<Parameter>? optimized)
    {
        Parameter[] trained = ModelParameters.Trainable(module);
        tied.Clear();
        AreOptimized = optimized is not null;
        IEnumerable<PlacedParameter> each = parameters.DistinctBy(static placed => placed.Parameter, ModelParameters.Identity);
        foreach ((int number, PlacedParameter placed) in each.Index())
        {
            string? name = placed.Copies.Count < 2 || !placed.IsTrained ? null : placed.Copies.FirstOrDefault(copy => copy.Stage == group.Rank).Name;
            if (name is null) continue;
            Parameter parameter = module.named_parameters().Where(entry => entry.name == name).Select(static entry => entry.parameter).FirstOrDefault()
                ?? throw new InvalidOperationException($"the parameter '{placed.Name}' is shared by several stages of the pipeline, but is not '{name}' of this stage any more, so that its copies cannot be kept equal");
            Parameter holder = optimized?[Array.FindIndex(trained, other => ModelParameters.Identity.Equals(other, parameter))] ?? parameter;
            tied.Add((number, [.. placed.Copies.Select(static copy => copy.Stage)], parameter, holder));
        }
    }

    /// <summary>Whether another stage counts this parameter where each is to be counted once.</summary>
    public bool IsCountedElsewhere(Parameter parameter) =>
        tied.Any(entry => ModelParameters.Identity.Equals(entry.Parameter, parameter) && entry.Stages[0] != group.Rank);

    /// <summary>Adds up the gradients over the stages, in the order of the layers: bitwise equal everywhere. All stages call it.</summary>
    public void SumGradients()
    {
        using var noGradient = no_grad();
        // All go through them in the same order, so that who waits is never waited for.
        foreach ((int number, int[] stages, _, Parameter parameter) in tied)
        {
            using DisposeScope scope = NewDisposeScope();
            int tag = BoundaryExchange.Tag(BoundaryExchange.FreeKind, number);
            Tensor? sum = parameter.grad?.cpu().contiguous();
            if (group.Rank == stages[0])
            {
                foreach (int stage in stages.Skip(1))
                {
                    Tensor? part = Receive(parameter, stage, tag);
                    sum = sum is null || part is null ? sum ?? part : sum + part;
                }

                foreach (int stage in stages.Skip(1)) Send(sum, stage, tag);
            }
            else
            {
                Send(sum, stages[0], tag);
                sum = Receive(parameter, stages[0], tag);
            }

            parameter.grad = sum?.to(parameter.device);
        }
    }

    // Without a gradient the message is empty.
    private void Send(Tensor? gradient, int stage, int tag) => group.Send<byte>(gradient is null ? default : new TensorMemory(gradient).GetSpan(), stage, tag);

    private Tensor? Receive(Parameter parameter, int stage, int tag)
    {
        Tensor buffer = empty(parameter.shape, parameter.dtype);
        return group.Recv(new TensorMemory(buffer).GetSpan(), stage, tag).Count == 0 ? null : buffer;
    }
}

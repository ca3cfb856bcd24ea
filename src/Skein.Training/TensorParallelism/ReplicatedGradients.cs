using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.TensorParallelism;

/// <summary>
/// Keeps the gradients of parameters that every rank has whole bitwise the same on all ranks, so that the parameters stay so: of slices of
/// the sequence the sum over the ranks, else that of rank 0. The others' differ from it by rounding at most, but nothing forbids that they do.
/// </summary>
internal sealed class ReplicatedGradients : IDisposable
{
    private readonly TensorCollectives collectives;
    private readonly List<(Tensor Memory, List<(Parameter Parameter, bool Sliced, Tensor Place)> Slots)> buffers = [];

    /// <param name="collectives">Of the ranks that have them.</param>
    /// <param name="parameters">What has the gradients, and whether each rank's is that of its slice only.</param>
    public ReplicatedGradients(TensorCollectives collectives, IEnumerable<(Parameter Parameter, bool Sliced)> parameters)
    {
        this.collectives = collectives;
        foreach (IGrouping<ScalarType, (Parameter Parameter, bool Sliced)> alike in parameters.GroupBy(static entry => entry.Parameter.dtype))
        {
            Tensor memory = empty(alike.Sum(static entry => entry.Parameter.numel()), alike.Key).DetachFromDisposeScope();
            var slots = new List<(Parameter, bool, Tensor)>();
            long start = 0;
            foreach ((Parameter parameter, bool sliced) in alike)
            {
                using Tensor flat = memory.narrow(0, start, parameter.numel());
                slots.Add((parameter, sliced, flat.view(parameter.shape).DetachFromDisposeScope()));
                start += parameter.numel();
            }

            buffers.Add((memory, slots));
        }
    }

    /// <summary>Makes them the same. A parameter without a gradient has none on any rank.</summary>
    public void Synchronize()
    {
        using DisposeScope scope = NewDisposeScope();
        foreach ((Tensor memory, var slots) in buffers)
        {
            foreach ((Parameter parameter, bool sliced, Tensor place) in slots)
            {
                if ((sliced || collectives.Rank == 0) && parameter.grad is { } gradient) place.copy_(gradient);
                else place.zero_();
            }

            collectives.AllReduceInPlace(memory);
            foreach ((Parameter parameter, _, Tensor place) in slots) parameter.grad?.copy_(place);
        }
    }

    public void Dispose()
    {
        foreach ((Tensor memory, var slots) in buffers)
        {
            foreach ((_, _, Tensor place) in slots) place.Dispose();
            memory.Dispose();
        }
    }
}

using Skein.Collectives;
using Skein.Training.Compression;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.Gradients;

/// <summary>
/// Some of the model's parameters, with the values they had when the ranks last met (the anchor, equal on all ranks) and
/// the state of the outer optimizer.
/// </summary>
internal sealed class ParameterFragment : IDisposable
{
    private readonly ProcessGroup group;
    private readonly IReadOnlyList<Parameter> parameters;
    private readonly SharedBuffer<float> buffer;
    private readonly Tensor host;
    private readonly Tensor difference;
    private readonly Tensor anchor;
    private readonly Tensor momentum;
    private readonly List<(Tensor Difference, Tensor Anchor)> views = [];

    /// <summary>Takes the parameters' present values, equal on all ranks, as the anchor. Collective.</summary>
    /// <param name="group">The ranks.</param>
    /// <param name="parameters">The fragment's.</param>
    /// <param name="compression">How the difference is compressed; null: not.</param>
    /// <param name="index">The fragment's number.</param>
    public ParameterFragment(ProcessGroup group, IReadOnlyList<Parameter> parameters, CompressionOptions? compression, int index)
    {
        this.group = group;
        this.parameters = parameters;
        using DisposeScope scope = NewDisposeScope();
        using var noGradient = no_grad();
        int length = checked((int)parameters.Sum(static parameter => parameter.numel()));
        Device device = parameters[0].device;
        buffer = group.AllocateShared<float>(length + 1);
        host = BorrowedTensor.Create(buffer.Pointer, length, ScalarType.Float32);
        difference = device.type == DeviceType.CPU ? host : empty(length, ScalarType.Float32, device).DetachFromDisposeScope();
        anchor = empty(length, ScalarType.Float32, device).DetachFromDisposeScope();
        momentum = zeros(length, ScalarType.Float32, device).DetachFromDisposeScope();
        long offset = 0;
        var places = new List<ParameterPlace>();
        foreach (Parameter parameter in parameters)
        {
            places.Add(ParameterPlace.Of(offset, parameter.shape));
            views.Add((View(difference, parameter, offset), View(anchor, parameter, offset)));
            offset += parameter.numel();
        }

        TakeAnchor();
        if (compression is not null) Compressed = new CompressedAverage(group, compression.Rules.Common, compression, places, length, index);
    }

    /// <summary>The difference's compression; null without.</summary>
    public CompressedAverage? Compressed { get; }

    /// <summary>Whether this rank's optimizer has made a step since the last meeting.</summary>
    public bool HasStepped { get; set; }
    /// <summary>Makes the parameters' present values, equal on all ranks, the anchor.</summary>
    public void TakeAnchor()
    {
        using var noGradient = no_grad();
        for (int i = 0; i < views.Count; i++) views[i].Anchor.copy_(parameters[i]);
    }

    /// <summary>
    /// Moves the anchor by the ranks' mean difference to it, as Nesterov's method would by a gradient, and the parameters
    /// to the anchor (Douillard et al. 2023, algorithm 1, lines 12 to 14).
    /// </summary>
    /// <param name="learningRate">The outer learning rate.</param>
    /// <param name="nesterov">The outer momentum.</param>
    /// <param name="stop">Whether this rank wants to stop.</param>
    /// <returns>Whether any rank wants to.</returns>
    public bool Meet(double learningRate, double nesterov, bool stop)
    {
        using DisposeScope scope = NewDisposeScope();
        using var noGradient = no_grad();
        for (int i = 0; i < views.Count; i++) views[i].Difference.copy_(views[i].Anchor).sub_(parameters[i]);
        if (!ReferenceEquals(host, difference)) host.copy_(difference);
        buffer.GetSpan()[^1] = stop ? 1 : 0;
        if (Compressed is null)
        {
            group.AllReduce(buffer.GetSpan(), ReduceOperation.Average);
        }
        else
        {
            // A rank that has diverged contributes nothing, and gets the others' parameters.
            Compressed.Average(buffer.GetSpan()[..^1]);
            Compressed.Settle(apply: true);
            group.AllReduce(buffer.GetSpan()[^1..], ReduceOperation.Average);
        }

        if (!ReferenceEquals(host, difference)) difference.copy_(host);
        if (nesterov > 0)
        {
            momentum.mul_(nesterov).add_(difference);
            difference.add_(momentum, nesterov);
        }

        anchor.add_(difference, -learningRate);
        for (int i = 0; i < views.Count; i++) parameters[i].copy_(views[i].Anchor);
        HasStepped = false;
        return buffer.GetSpan()[^1] > 0;
    }

    public void Dispose()
    {
        foreach ((Tensor first, Tensor second) in views)
        {
            first.Dispose();
            second.Dispose();
        }

        if (!ReferenceEquals(host, difference)) difference.Dispose();
        host.Dispose();
        anchor.Dispose();
        momentum.Dispose();
        buffer.Dispose();
    }

    private static Tensor View(Tensor flat, Parameter parameter, long offset)
    {
        using Tensor slice = flat.narrow(0, offset, parameter.numel());
        return slice.view(parameter.shape).DetachFromDisposeScope();
    }
}

using static TorchSharp.torch;

namespace Skein.Workloads.Models;

/// <summary>Linear layers with ReLU between them.</summary>
internal static class Mlp
{
    /// <summary>The layers of a network from the first width to the last: [n, widths[0]] to [n, widths[^1]].</summary>
    internal static IReadOnlyList<nn.Module<Tensor, Tensor>> Layers(params ReadOnlySpan<int> widths)
    {
        var layers = new List<nn.Module<Tensor, Tensor>>();
        for (int i = 1; i < widths.Length; i++)
        {
            if (i > 1) layers.Add(nn.ReLU());
            layers.Add(nn.Linear(widths[i - 1], widths[i]));
        }

        return layers;
    }
}

using Skein.Training.Compression;
using static TorchSharp.torch;

namespace Skein.Training.Gradients;

/// <summary>Which parameters share a bucket.</summary>
internal static class BucketPlan
{
    /// <summary>
    /// The model's trainable parameters in reverse order, roughly that in which the backward pass completes them,
    /// cut into pieces of one element type, device and compression that do not exceed the bucket size.
    /// </summary>
    public static IReadOnlyList<IReadOnlyList<NamedParameter>> Of(nn.Module model, DataParallelOptions options, bool smallFirst)
    {
        var plan = new List<IReadOnlyList<NamedParameter>>();
        var open = new Dictionary<(ScalarType, string, CompressionSpec?), (List<NamedParameter> Members, long Bytes)>();
        foreach (NamedParameter entry in ModelParameters.Of(model).Reverse().Where(static entry => entry.Parameter.requires_grad))
        {
            (ScalarType, string, CompressionSpec?) kind = (entry.Parameter.dtype, entry.Parameter.device.ToString(), options.Compression?.Rules.Of(entry.Name));
            int limit = smallFirst && plan.Count == 0 ? Math.Min(options.FirstBucketBytes, options.BucketBytes) : options.BucketBytes;
            (List<NamedParameter> members, long bytes) = open.GetValueOrDefault(kind, ([], 0));
            if (members.Count > 0 && bytes + entry.Bytes > limit)
            {
                plan.Add(members);
                (members, bytes) = ([], 0);
            }

            members.Add(entry);
            open[kind] = (members, bytes + entry.Bytes);
        }

        // The piece that holds the first parameter completes last, so it goes last.
        plan.AddRange(open.Values.Select(static piece => (IReadOnlyList<NamedParameter>)piece.Members).Reverse());
        return plan;
    }
}

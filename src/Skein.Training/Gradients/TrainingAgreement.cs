using System.Globalization;
using System.Security.Cryptography;
using Skein.Collectives;
using Skein.Training.Data;
using TorchSharp;
using static TorchSharp.torch;

namespace Skein.Training.Gradients;

/// <summary>
/// What ranks that train together have to have in common besides the model: without it each would go its own way, unnoticed.
/// </summary>
internal static class TrainingAgreement
{
    private const int ComparedSamples = 8;

    /// <summary>
    /// Compares the data, by their number and a few samples, and the settings. Collective over the strategy's groups, and cheap.
    /// </summary>
    /// <exception cref="InvalidOperationException">Something differs: on every rank of the group, with the ranks' values.</exception>
    public static void Check(Strategy strategy, InMemoryDataset data, params IEnumerable<(string What, object? Value)> settings)
    {
        ProcessGroup[] groups = [.. strategy.Peers.Where(static group => group.WorldSize > 1)];
        if (groups.Length == 0) return;
        (string, string)[] facts =
        [
            .. settings.Select(static setting => (setting.What, string.Create(CultureInfo.InvariantCulture, $"{setting.Value ?? "none"}"))),
            ("the number of samples", data.Count.ToString(CultureInfo.InvariantCulture)),
            ("the data", Digest(data)),
        ];
        // All groups first: ranks of the others wait for this one in theirs.
        string?[] differences = [.. groups.Select(group => Replicas.Difference(group, facts))];
        if (differences.OfType<string>().FirstOrDefault() is not { } first) return;
        throw new InvalidOperationException($"the ranks do not train alike: {first}; give every rank the same data and the same settings");
    }

    private static string Digest(InMemoryDataset data)
    {
        using DisposeScope scope = NewDisposeScope();
        int compared = Math.Min(ComparedSamples, data.Count);
        long[] indices = [.. Enumerable.Range(0, compared).Select(i => compared == 1 ? 0 : (long)i * (data.Count - 1) / (compared - 1))];
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        string shapes = "";
        foreach (Tensor part in (Tensor[])[data.Features, data.Labels])
        {
            hash.AppendData(part.index_select(0, tensor(indices, device: part.device)).cpu().contiguous().bytes);
            shapes += $"{part.dtype}[{string.Join(", ", part.shape[1..])}] ";
        }

        return $"{shapes}with digest {Convert.ToHexStringLower(hash.GetHashAndReset())[..12]}";
    }
}

using System.Security.Cryptography;
using Skein.Training;
using static TorchSharp.torch;

namespace Skein.Cli.Train;

/// <summary>A model's fingerprint: SHA-256 over its parameters as little-endian float32, in the order of <c>state_dict</c>.</summary>
internal static class ParameterChecksum
{
    /// <summary>The fingerprint, after a check that all ranks have the same. All ranks call it.</summary>
    /// <exception cref="InvalidOperationException">The ranks' parameters differ.</exception>
    public static string Agree(Strategy strategy, nn.Module model)
    {
        byte[] mine = Compute(model);
        double[] numbers = [.. mine.Select(static value => (double)value)];
        string[] different = [.. strategy.Gather(numbers).Index().Where(other => !other.Item.SequenceEqual(numbers)).Select(other => $"{other.Index}")];
        if (different.Length > 0)
        {
            throw new InvalidOperationException($"after training the parameters of rank {strategy.Rank} differ from those of rank {string.Join(", ", different)}");
        }

        return Convert.ToHexStringLower(mine);
    }

    internal static byte[] Compute(nn.Module model)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        using var scope = NewDisposeScope();
        // TorchSharp lists parameters in the order of state_dict, which has the buffers besides.
        foreach (var (_, parameter) in model.named_parameters())
        {
            hash.AppendData(parameter.detach().to(float32).cpu().contiguous().bytes);
        }

        return hash.GetHashAndReset();
    }
}

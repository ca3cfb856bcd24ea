using System.Security.Cryptography;
using Skein.Training;
using Skein.Training.Checkpointing;
using static TorchSharp.torch;

namespace Skein.Cli.Train;

/// <summary>A model's fingerprint: SHA-256 over its parameters as little-endian float32, in the order of <c>state_dict</c>.</summary>
internal static class ParameterChecksum
{
    /// <summary>The fingerprint, after a check that all ranks have the same. All ranks call it.</summary>
    /// <param name="strategy">Whose ranks have the model, or parts of it.</param>
    /// <param name="model">The trained model.</param>
    /// <param name="file">Where this rank writes the parameters and buffers on the way; null: nowhere.</param>
    /// <exception cref="InvalidOperationException">The ranks' parameters differ.</exception>
    public static string Agree(Strategy strategy, nn.Module model, string? file)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        HashSet<string> hashed = [.. model.named_parameters().Select(static entry => entry.name)];
        IEnumerable<(string Name, Tensor Value)> state = Read(strategy.FullState(model), hashed, hash);
        if (file is null) foreach (var _ in state) { }
        else SafeTensors.Write(file, state);

        byte[] mine = hash.GetHashAndReset();
        double[] numbers = [.. mine.Select(static value => (double)value)];
        string[] different = [.. strategy.Gather(numbers).Index().Where(other => !other.Item.SequenceEqual(numbers)).Select(other => $"{other.Index}")];
        if (different.Length > 0)
        {
            throw new InvalidOperationException($"after training the parameters of rank {strategy.Rank} differ from those of rank {string.Join(", ", different)}");
        }

        return Convert.ToHexStringLower(mine);
    }

    private static IEnumerable<(string Name, Tensor Value)> Read(IEnumerable<(string Name, Tensor Value)> state, HashSet<string> hashed, IncrementalHash hash)
    {
        // TorchSharp lists parameters in the order of state_dict.
        foreach ((string name, Tensor value) in state)
        {
            using (NewDisposeScope())
            {
                if (hashed.Contains(name)) hash.AppendData(value.detach().to(float32).cpu().contiguous().bytes);
            }

            yield return (name, value);
        }
    }
}

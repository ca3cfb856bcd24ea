using System.Text;
using Skein.Collectives;
using TorchSharp;
using static TorchSharp.torch;

namespace Skein.Training.Gradients;

/// <summary>Makes the ranks' copies of a model equal.</summary>
internal static class Replicas
{
    // Longer descriptions than this come from no model; a length from another rank is checked before it is allocated.
    private const int LongestDescription = 64 << 20;
    private const int BroadcastElements = 64 << 20;

    /// <summary>Checks that all ranks have the same tensors, in the same order.</summary>
    /// <exception cref="InvalidOperationException">They have not; thrown on every rank, naming the first difference and the ranks.</exception>
    public static void Check(ProcessGroup group, IEnumerable<(string Name, Tensor Tensor)> tensors)
    {
        string[] lines = [.. tensors.Select(static entry => $"{entry.Name}\t{entry.Tensor.dtype}[{string.Join(", ", entry.Tensor.shape)}]")];
        string[][] all = Exchange(group, lines);
        int longest = all.Max(static list => list.Length);
        for (int i = 0; i < longest; i++)
        {
            string?[] variants = [.. all.Select(list => i < list.Length ? list[i] : null)];
            if (variants.All(variant => variant == variants[0])) continue;
            IEnumerable<string> sides = variants
                .Select(static (variant, rank) => (variant, rank))
                .GroupBy(static entry => entry.variant)
                .Select(static side => $"{Describe(side.Key)} on {Ranks([.. side.Select(static entry => entry.rank)])}");
            throw new InvalidOperationException(
                $"the ranks hold different models: tensor {i} is {string.Join(", but ", sides)}; build the same model on every rank");
        }
    }

    /// <summary>Overwrites the tensors by those of rank <paramref name="root"/>.</summary>
    public static void Broadcast(ProcessGroup group, IEnumerable<Tensor> tensors, int root = 0)
    {
        using var noGradient = no_grad();
        foreach (Tensor tensor in tensors)
        {
            using DisposeScope scope = NewDisposeScope();
            bool direct = tensor.device_type == DeviceType.CPU && tensor.is_contiguous();
            Tensor flat = direct ? tensor.detach().view(-1) : tensor.detach().cpu().contiguous().view(-1);
            for (long start = 0; start < flat.numel(); start += BroadcastElements)
            {
                group.Broadcast(flat.narrow(0, start, Math.Min(BroadcastElements, flat.numel() - start)).bytes, root);
            }

            if (!direct) tensor.copy_(flat.view(tensor.shape));
        }
    }

    private static string[][] Exchange(ProcessGroup group, string[] lines)
    {
        byte[] mine = Encoding.UTF8.GetBytes(string.Join('\n', lines));
        int[] lengths = new int[group.WorldSize];
        group.AllGather([mine.Length], lengths.AsSpan());
        if (lengths.Any(static length => length is < 0 or > LongestDescription) || lengths.Sum(static length => (long)length) > int.MaxValue)
        {
            throw new InvalidOperationException($"the ranks' descriptions of the model have {string.Join(", ", lengths)} bytes; at most {LongestDescription} each are possible");
        }

        byte[] everyone = new byte[lengths.Sum()];
        group.AllGather(mine, everyone.AsSpan(), lengths);
        var all = new string[group.WorldSize][];
        int offset = 0;
        for (int rank = 0; rank < all.Length; rank++)
        {
            all[rank] = Encoding.UTF8.GetString(everyone, offset, lengths[rank]).Split('\n', StringSplitOptions.RemoveEmptyEntries);
            offset += lengths[rank];
        }

        return all;
    }

    private static string Describe(string? line)
    {
        if (line is null) return "missing";
        string[] parts = line.Split('\t');
        return $"'{parts[0]}' {parts[^1]}";
    }

    private static string Ranks(int[] ranks) => ranks.Length == 1 ? $"rank {ranks[0]}" : $"ranks {string.Join(", ", ranks)}";
}

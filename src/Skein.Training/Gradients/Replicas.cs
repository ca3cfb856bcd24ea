using System.Security.Cryptography;
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
    private const int PieceElements = 64 << 20;

    /// <summary>
    /// Checks that all ranks have the same model, and gives its parameters and buffers the values of rank 0. Where they have these already, as after
    /// the same seed, only digests travel: on a slow link the model would take as long as a step.
    /// </summary>
    /// <exception cref="InvalidOperationException">The ranks' models differ; thrown on every rank, naming the first difference and the ranks.</exception>
    public static void Unify(ProcessGroup group, nn.Module model)
    {
        Check(group, model);
        Tensor[] tensors = [.. model.parameters(), .. model.buffers()];
        if (!AreEqual(group, tensors)) Broadcast(group, tensors);
    }

    /// <summary>Checks that all ranks' models have the same parameters and buffers, in the same order, and train the same of them.</summary>
    /// <exception cref="InvalidOperationException">They have not; thrown on every rank, naming the first difference and the ranks.</exception>
    public static void Check(ProcessGroup group, nn.Module model)
    {
        if (FirstDifference(group, Describe(model), static line => $"'{line[0]}' {line[1]}") is (int index, string sides))
        {
            throw new InvalidOperationException(
                $"the ranks hold different models: tensor {index} is {sides}; build the same model on every rank");
        }
    }

    /// <summary>A line for each parameter and buffer, in order: its name, its type and shape, and whether it is frozen.</summary>
    public static string[] Describe(nn.Module model) =>
    [
        .. model.named_parameters().Select(static entry => Line(entry.name, entry.parameter, isFrozen: !entry.parameter.requires_grad)),
        .. model.named_buffers().Select(static entry => Line(entry.name, entry.buffer)),
    ];

    /// <summary>Compares what the ranks have to have in common. Collective.</summary>
    /// <param name="group">The ranks.</param>
    /// <param name="facts">As many on every rank, about the same things in the same order.</param>
    /// <returns>The first thing that differs, with every rank's value of it; null where all is the same.</returns>
    public static string? Difference(ProcessGroup group, IEnumerable<(string What, string Value)> facts)
    {
        string[] lines = [.. facts.Select(static fact => $"{fact.What}\t{fact.Value}")];
        return FirstDifference(group, lines, static line => line[1]) is (int index, string sides)
            ? $"{lines[index].Split('\t')[0]} is {sides}"
            : null;
    }

    /// <summary>Overwrites the tensors by those of rank <paramref name="root"/>.</summary>
    public static void Broadcast(ProcessGroup group, IEnumerable<Tensor> tensors, int root = 0)
    {
        using var noGradient = no_grad();
        foreach (Tensor tensor in tensors)
        {
            using DisposeScope scope = NewDisposeScope();
            (Tensor flat, bool isView) = Flatten(tensor);
            foreach (Tensor piece in Pieces(flat)) group.Broadcast(piece.bytes, root);
            if (!isView) tensor.copy_(flat.view(tensor.shape));
        }
    }

    private static (int Index, string Sides)? FirstDifference(ProcessGroup group, string[] lines, Func<string[], string> describe)
    {
        string[][] all = Exchange(group, lines);
        int longest = all.Max(static list => list.Length);
        for (int i = 0; i < longest; i++)
        {
            string?[] variants = [.. all.Select(list => i < list.Length ? list[i] : null)];
            if (variants.All(variant => variant == variants[0])) continue;
            IEnumerable<string> sides = variants
                .Select(static (variant, rank) => (variant, rank))
                .GroupBy(static entry => entry.variant)
                .Select(side => $"{Value(side.Key)} on {Ranks([.. side.Select(static entry => entry.rank)])}");
            return (i, string.Join(", but ", sides));
        }

        return null;

        string Value(string? line) => line is null ? "missing" : describe(line.Split('\t'));
    }

    private static string Line(string name, Tensor tensor, bool isFrozen = false) =>
        $"{name}\t{tensor.dtype}[{string.Join(", ", tensor.shape)}]{(isFrozen ? ", frozen" : "")}";

    private static bool AreEqual(ProcessGroup group, Tensor[] tensors)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        foreach (Tensor tensor in tensors)
        {
            using DisposeScope scope = NewDisposeScope();
            foreach (Tensor piece in Pieces(Flatten(tensor).Flat)) hash.AppendData(piece.bytes);
        }

        byte[] own = hash.GetHashAndReset();
        byte[] all = new byte[own.Length * group.WorldSize];
        group.AllGather(own, all.AsSpan());
        return all.Chunk(own.Length).All(digest => digest.AsSpan().SequenceEqual(all.AsSpan(0, own.Length)));
    }

    /// <summary>The elements in a row, in this machine's memory: where they are, or a copy.</summary>
    private static (Tensor Flat, bool IsView) Flatten(Tensor tensor)
    {
        bool isView = tensor.device_type == DeviceType.CPU && tensor.is_contiguous();
        return ((isView ? tensor.detach() : tensor.detach().cpu().contiguous()).view(-1), isView);
    }

    /// <summary>A span has fewer bytes than a tensor may.</summary>
    private static IEnumerable<Tensor> Pieces(Tensor flat)
    {
        for (long start = 0; start < flat.numel(); start += PieceElements) yield return flat.narrow(0, start, Math.Min(PieceElements, flat.numel() - start));
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

    private static string Ranks(int[] ranks) => ranks.Length == 1 ? $"rank {ranks[0]}" : $"ranks {string.Join(", ", ranks)}";
}

using System.Security.Cryptography;
using System.Text;
using TorchSharp;
using static TorchSharp.torch;

namespace Skein.Training.Decentralized;

/// <summary>Tensors of a model as bytes, to make those of other peers equal.</summary>
internal static class ModelState
{
    private const byte Same = 0;
    private const byte Different = 1;

    /// <summary>The parameters and buffers.</summary>
    public static Tensor[] Of(nn.Module model) => [.. model.parameters().Cast<Tensor>().Concat(model.buffers())];

    public static int Length(IEnumerable<Tensor> tensors) => checked((int)tensors.Sum(static tensor => tensor.numel() * tensor.element_size()));

    /// <summary>Makes the tensors equal to those of rank 0.</summary>
    /// <exception cref="InvalidOperationException">The peers' models differ in names, types or shapes.</exception>
    public static void Unify(Meeting meeting, nn.Module model)
    {
        Tensor[] tensors = Of(model);
        byte[] answer = meeting.Round("comparing the models", Fingerprint(model), all =>
        {
            int[] others = [.. Enumerable.Range(0, all.Length).Where(peer => all[peer] is { } print && !print.AsSpan().SequenceEqual(all[0]))];
            return others.Length == 0 ? [Same, .. Read(tensors)] : [Different, .. Encoding.UTF8.GetBytes(string.Join(", ", others))];
        });
        if (answer[0] == Different) throw new InvalidOperationException($"the ranks hold different models: that of rank 0 is not that of rank {Encoding.UTF8.GetString(answer.AsSpan(1))}; build the same model on every rank");
        Write(tensors, answer.AsSpan(1));
    }

    public static byte[] Read(Tensor[] tensors)
    {
        using DisposeScope scope = NewDisposeScope();
        var all = new byte[Length(tensors)];
        Span<byte> rest = all;
        foreach (Tensor tensor in tensors)
        {
            Span<byte> bytes = tensor.detach().cpu().contiguous().bytes;
            bytes.CopyTo(rest);
            rest = rest[bytes.Length..];
        }

        return all;
    }

    public static void Write(Tensor[] tensors, ReadOnlySpan<byte> bytes)
    {
        using var noGradient = no_grad();
        using DisposeScope scope = NewDisposeScope();
        foreach (Tensor tensor in tensors)
        {
            using Tensor copy = empty(tensor.shape, tensor.dtype);
            Span<byte> target = copy.bytes;
            bytes[..target.Length].CopyTo(target);
            bytes = bytes[target.Length..];
            tensor.copy_(copy);
        }
    }

    private static byte[] Fingerprint(nn.Module model)
    {
        IEnumerable<string> lines = model.named_parameters().Select(static entry => (entry.name, (Tensor)entry.parameter)).Concat(model.named_buffers())
            .Select(static entry => $"{entry.Item1}\t{entry.Item2.dtype}[{string.Join(", ", entry.Item2.shape)}]");
        return SHA256.HashData(Encoding.UTF8.GetBytes(string.Join('\n', lines)));
    }
}

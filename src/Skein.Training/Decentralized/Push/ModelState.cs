using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text;
using Skein.Collectives;
using Skein.Training.Gradients;
using TorchSharp;
using static TorchSharp.torch;

namespace Skein.Training.Decentralized;

/// <summary>How a peer comes into a training that is under way: with the model x / w of the peer that lets it in.</summary>
/// <param name="Step">The steps done before it.</param>
/// <param name="Weight">Its w, which that peer has given away, and with it as much of its x.</param>
internal readonly record struct Admission(long Step, double Weight);

/// <summary>Tensors of a model as bytes, to make those of other peers equal, at the start or when one of them comes back.</summary>
internal static class ModelState
{
    private const byte Same = 0;
    private const byte Different = 1;
    private const byte UnderWay = 2;
    private const byte Ended = 3;
    private const int AdmissionLength = sizeof(long) + sizeof(double);

    /// <summary>The parameters and buffers.</summary>
    public static Tensor[] Of(nn.Module model) => [.. model.parameters().Cast<Tensor>().Concat(model.buffers())];

    public static int Length(IEnumerable<Tensor> tensors) => checked((int)tensors.Sum(static tensor => tensor.numel() * tensor.element_size()));

    /// <summary>The most bytes of an answer to who comes.</summary>
    public static int MaximumLength(nn.Module model) => checked(1 + AdmissionLength + Length(Of(model)));

    /// <summary>Makes the tensors equal to those of rank 0.</summary>
    /// <returns>Where the others train already, how to come in; null where all begin together.</returns>
    /// <exception cref="InvalidOperationException">The peers' models differ in names, types or shapes.</exception>
    /// <exception cref="RendezvousException">Training has ended.</exception>
    public static Admission? Unify(Meeting meeting, nn.Module model)
    {
        Tensor[] tensors = Of(model);
        byte[] answer = meeting.Round("comparing the models", Fingerprint(model), all =>
        {
            int[] others = [.. Enumerable.Range(0, all.Length).Where(peer => all[peer] is { } print && !print.AsSpan().SequenceEqual(all[0]))];
            return others.Length == 0 ? [Same, .. Read(tensors)] : AreDifferent(others);
        });
        ReadOnlySpan<byte> content = answer.AsSpan(1);
        switch (answer[0])
        {
            case Same:
                Write(tensors, content);
                return null;
            case UnderWay:
                Write(tensors, content[AdmissionLength..]);
                return new Admission(MemoryMarshal.Read<long>(content), MemoryMarshal.Read<double>(content[sizeof(long)..]));
            case Different:
                throw new InvalidOperationException($"the ranks hold different models: that of rank 0 is not that of rank {Encoding.UTF8.GetString(content)}; build the same model on every rank");
            default:
                throw new RendezvousException(Encoding.UTF8.GetString(content));
        }
    }

    /// <summary>Rank 0's answer to a peer that has come back and brings a fingerprint.</summary>
    /// <param name="model">Rank 0's.</param>
    /// <param name="peer">Who came.</param>
    /// <param name="fingerprint">What it brought.</param>
    /// <param name="admit">Run when it has the same model: what it gets besides that.</param>
    public static (byte[] Answer, bool Admitted) Welcome(nn.Module model, int peer, byte[] fingerprint, Func<Admission> admit)
    {
        if (!fingerprint.AsSpan().SequenceEqual(Fingerprint(model))) return (AreDifferent([peer]), false);
        Admission admission = admit();
        var head = new byte[AdmissionLength];
        MemoryMarshal.Write(head, admission.Step);
        MemoryMarshal.Write(head.AsSpan(sizeof(long)), admission.Weight);
        return ([UnderWay, .. head, .. Read(Of(model))], true);
    }

    /// <summary>Rank 0's answer to who comes too late.</summary>
    public static byte[] TooLate(string reason) => [Ended, .. Encoding.UTF8.GetBytes(reason)];

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

    private static byte[] AreDifferent(IEnumerable<int> peers) => [Different, .. Encoding.UTF8.GetBytes(string.Join(", ", peers))];

    private static byte[] Fingerprint(nn.Module model) =>
        SHA256.HashData(Encoding.UTF8.GetBytes(string.Join('\n', Replicas.Describe(model))));
}

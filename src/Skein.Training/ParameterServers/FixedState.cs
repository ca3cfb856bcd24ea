using System.Buffers.Binary;
using System.Security.Cryptography;
using System.Text;
using Skein.ParameterServer;
using Skein.ParameterServer.Control;
using TorchSharp;
using static TorchSharp.torch;

namespace Skein.Training.ParameterServers;

/// <summary>
/// What a model has and servers do not hold, frozen parameters and buffers: every worker begins with those of worker 0.
/// </summary>
internal static class FixedState
{
    private const string Name = "fixed state";
    private const int PieceBytes = 2 << 20;

    /// <summary>Gives <paramref name="model"/> what worker 0's has. All workers call it; in an elastic job each when it comes.</summary>
    /// <exception cref="ParameterServerException">The workers' models differ in it, or the job failed.</exception>
    public static void Share(nn.Module model, CoordinatorClient coordinator, JobSettings settings)
    {
        using DisposeScope scope = NewDisposeScope();
        using var noGradient = no_grad();
        (string Name, Tensor Value)[] state =
        [
            .. model.named_parameters().Where(static entry => !entry.parameter.requires_grad)
                .Select(static entry => (entry.name, (Tensor)entry.parameter)),
            .. model.named_buffers().Select(static entry => (entry.name, entry.buffer)),
        ];
        byte[] shape = Encoding.UTF8.GetBytes(string.Join(';', state.Select(Describe)));
        byte[] digest = Digest(shape, state);
        if (!settings.Elastic && Agree(digest, coordinator, settings.Workers)) return;
        if (coordinator.Id == 0) Keep(digest, shape, state, coordinator);
        else Fetch(digest, shape, state, coordinator);
    }

    private static byte[] Digest(byte[] shape, (string Name, Tensor Value)[] state)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        hash.AppendData(shape);
        foreach ((_, Tensor value) in state) hash.AppendData(Bytes(value));
        return hash.GetHashAndReset();
    }

    // Usually all began with one seed, and nothing has to travel.
    private static bool Agree(byte[] digest, CoordinatorClient coordinator, int workers)
    {
        const int numbers = SHA256.HashSizeInBytes / sizeof(uint);
        var all = new double[workers * numbers];
        for (int i = 0; i < numbers; i++)
        {
            all[(coordinator.Id * numbers) + i] = BinaryPrimitives.ReadUInt32LittleEndian(digest.AsSpan(i * sizeof(uint)));
        }

        IReadOnlyList<double> digests = coordinator.SumAsync(Name, all).GetAwaiter().GetResult().Sums;
        return digests.Chunk(numbers).All(one => one.SequenceEqual(digests.Take(numbers)));
    }

    private static void Keep(byte[] digest, byte[] shape, (string Name, Tensor Value)[] state, CoordinatorClient coordinator)
    {
        using var values = new MemoryStream();
        foreach ((_, Tensor value) in state) values.Write(Bytes(value));
        ReadOnlyMemory<byte> all = values.GetBuffer().AsMemory(0, (int)values.Length);
        for (int index = 0; index * (long)PieceBytes < all.Length; index++)
        {
            int start = index * PieceBytes;
            coordinator.KeepAsync(Piece(index), all.Slice(start, Math.Min(PieceBytes, all.Length - start))).GetAwaiter().GetResult();
        }

        // Last, so that who sees it finds the rest.
        coordinator.KeepAsync(Name, (byte[])[.. digest, .. SHA256.HashData(shape)]).GetAwaiter().GetResult();
    }

    private static void Fetch(byte[] digest, byte[] shape, (string Name, Tensor Value)[] state, CoordinatorClient coordinator)
    {
        byte[] told = coordinator.FetchAsync(Name).GetAwaiter().GetResult().ToArray();
        if (told.AsSpan(0, digest.Length).SequenceEqual(digest)) return;
        if (!told.AsSpan(digest.Length).SequenceEqual(SHA256.HashData(shape)))
        {
            string own = shape.Length == 0 ? "none" : Encoding.UTF8.GetString(shape);
            throw new ParameterServerException(
                $"worker {coordinator.Id} has other frozen parameters or buffers than worker 0: it has {own}");
        }

        long length = state.Sum(static entry => entry.Value.numel() * entry.Value.element_size());
        using var values = new MemoryStream();
        for (int index = 0; values.Length < length; index++)
        {
            values.Write(coordinator.FetchAsync(Piece(index)).GetAwaiter().GetResult().Span);
        }

        int offset = 0;
        foreach ((_, Tensor value) in state)
        {
            using Tensor fetched = empty(value.shape, value.dtype);
            int count = checked((int)(value.numel() * value.element_size()));
            if (count > 0) values.GetBuffer().AsSpan(offset, count).CopyTo(fetched.bytes);
            value.copy_(fetched);
            offset += count;
        }
    }

    private static string Describe((string Name, Tensor Value) entry) =>
        $"{entry.Name} {entry.Value.dtype} [{string.Join(", ", entry.Value.shape)}]";

    private static string Piece(int index) => $"{Name} {index}";

    private static byte[] Bytes(Tensor value) => value.numel() == 0 ? [] : value.detach().cpu().contiguous().bytes.ToArray();
}

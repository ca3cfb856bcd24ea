using System.Buffers.Binary;

namespace Skein.ParameterServer.Wire;

/// <summary>Who connects to a shard, said in the handshake: a worker, or the primary whose backup the shard is.</summary>
/// <param name="Worker">The worker's id, or <see cref="Primary"/>.</param>
/// <param name="Generation">The generation of the shard that the peer takes it for.</param>
/// <param name="Token">Proves that the peer is who it says.</param>
internal readonly record struct PeerHello(int Worker, long Generation, Guid Token)
{
    public const int Primary = -1;
    private const int Length = 28;

    public byte[] ToBytes()
    {
        var bytes = new byte[Length];
        BinaryPrimitives.WriteInt32LittleEndian(bytes, Worker);
        BinaryPrimitives.WriteInt64LittleEndian(bytes.AsSpan(4), Generation);
        Token.TryWriteBytes(bytes.AsSpan(12));
        return bytes;
    }

    /// <exception cref="InvalidDataException">It is not a hello.</exception>
    public static PeerHello Parse(ReadOnlySpan<byte> bytes) => bytes.Length == Length
        ? new PeerHello(
            BinaryPrimitives.ReadInt32LittleEndian(bytes), BinaryPrimitives.ReadInt64LittleEndian(bytes[4..]), new Guid(bytes[12..]))
        : throw new InvalidDataException($"a hello of {bytes.Length} bytes, not {Length}");
}

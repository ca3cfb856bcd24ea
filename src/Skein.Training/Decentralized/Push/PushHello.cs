using System.Buffers.Binary;

namespace Skein.Training.Decentralized;

/// <summary>What a connection between peers that push is for.</summary>
internal enum PushLinkKind : byte
{
    /// <summary>Halves of x and w, to be added.</summary>
    Push = 1,

    /// <summary>Rounds in which all peers meet at rank 0.</summary>
    Meeting = 2,
}

/// <summary>The first words of a connection between peers that push.</summary>
/// <param name="Kind">What it is for.</param>
/// <param name="Rank">Who opens it.</param>
/// <param name="Incarnation">Which process of that rank it is, from 1.</param>
/// <param name="Length">The number of its parameters, which says how long its messages are.</param>
internal readonly record struct PushHello(PushLinkKind Kind, int Rank, int Incarnation, int Length)
{
    private const int EncodedLength = 1 + (3 * sizeof(int));

    public byte[] Encode()
    {
        var bytes = new byte[EncodedLength];
        bytes[0] = (byte)Kind;
        BinaryPrimitives.WriteInt32LittleEndian(bytes.AsSpan(1), Rank);
        BinaryPrimitives.WriteInt32LittleEndian(bytes.AsSpan(1 + sizeof(int)), Incarnation);
        BinaryPrimitives.WriteInt32LittleEndian(bytes.AsSpan(1 + (2 * sizeof(int))), Length);
        return bytes;
    }

    /// <summary>Reads and checks it, before anything is allocated for the connection.</summary>
    /// <exception cref="InvalidDataException">It comes from no peer with the same model.</exception>
    public static PushHello Decode(ReadOnlySpan<byte> bytes, int rank, int worldSize, int length)
    {
        if (bytes.Length != EncodedLength) throw new InvalidDataException($"a peer's hello has {bytes.Length} bytes instead of {EncodedLength}");
        var hello = new PushHello(
            (PushLinkKind)bytes[0],
            BinaryPrimitives.ReadInt32LittleEndian(bytes[1..]),
            BinaryPrimitives.ReadInt32LittleEndian(bytes[(1 + sizeof(int))..]),
            BinaryPrimitives.ReadInt32LittleEndian(bytes[(1 + (2 * sizeof(int)))..]));
        if (hello.Kind is not (PushLinkKind.Push or PushLinkKind.Meeting)) throw new InvalidDataException($"a peer wants a connection of kind {bytes[0]}, which there is not");
        if (hello.Rank < 0 || hello.Rank >= worldSize || hello.Rank == rank) throw new InvalidDataException($"a peer of rank {rank} says that it is rank {hello.Rank} of {worldSize}");
        if (hello.Incarnation < 1) throw new InvalidDataException($"rank {hello.Rank} says that it is process {hello.Incarnation} of its rank, which are counted from 1");
        // Rank 0 tells those who come to meet what is wrong with their model.
        return hello.Kind == PushLinkKind.Meeting || hello.Length == length
            ? hello
            : throw new InvalidDataException($"rank {hello.Rank} has {hello.Length} parameters and rank {rank} has {length}");
    }
}

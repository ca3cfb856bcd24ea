using System.Buffers;
using System.Runtime.InteropServices;

namespace Skein.Collectives;

// What is on the wire, and what the queue keeps of each operation.
internal sealed unsafe partial class MessageQueue
{
    /// <summary>What goes ahead of a message.</summary>
    [StructLayout(LayoutKind.Sequential, Pack = 1)]
    internal readonly struct Envelope(int tag, ElementType type, long bytes)
    {
        public static int Size => sizeof(Envelope);
        private const uint MagicValue = 0x534B_4D31;

        private readonly uint magic = MagicValue;
        public readonly int Tag = tag;
        public readonly int Type = (int)type;
        public readonly long Bytes = bytes;

        public void Check()
        {
            if (magic != MagicValue || Bytes is < 0 or > int.MaxValue)
            {
                throw new CollectiveMismatchException("a message did not begin where it should; is another version of Skein in this job?");
            }
        }
    }

    private sealed class Arrival
    {
        public Envelope Envelope;
        public int HeaderDone;
        public bool IsClosed;
        public nint Done, Length;
        public Operation? Receive;
        public byte[] Kept = [];
    }

    /// <summary>One send or receive.</summary>
    internal sealed class Operation(int peer, int tag, ElementType type, byte* bytes, nint length)
    {
        private Exception? error;

        public bool IsSend { get; init; }

        public CollectiveHandle? Handle { get; init; }

        public MemoryHandle Pin { get; init; }

        public int Peer { get; private set; } = peer;

        public int Tag => tag;

        public ElementType Type => type;

        public byte* Bytes => bytes;

        public nint Length { get; private set; } = length;

        public nint Moved { get; set; }

        public nint Total => Envelope.Size + Length;

        /// <summary>Whether the queue's own thread has to care for it.</summary>
        public bool IsBackground { get; set; }

        public bool IsDone { get; private set; }

        public bool Matches(int from, in Envelope envelope) => (Peer < 0 || Peer == from) && tag == envelope.Tag;

        /// <summary>Takes on what has come.</summary>
        public void Accept(int from, in Envelope envelope)
        {
            if (envelope.Type != (int)type || envelope.Bytes > Length)
            {
                throw new CollectiveMismatchException(
                    $"rank {from} of the group sent {envelope.Bytes / ((ElementType)envelope.Type).Size():N0} × {((ElementType)envelope.Type).ToString().ToLowerInvariant()} with tag {tag}, "
                    + $"but this rank receives at most {Length / type.Size():N0} × {type.ToString().ToLowerInvariant()}");
            }

            Peer = from;
            Length = (nint)envelope.Bytes;
        }

        public void Finish(Exception? failure = null)
        {
            error = failure;
            IsDone = true;
            Pin.Dispose();
            if (failure is null) Handle?.Complete();
            else Handle?.Fail(failure);
        }

        public void ThrowIfFailed()
        {
            if (error is not null) throw error;
        }

        public override string ToString() => IsSend
            ? $"Send to rank {Peer} of the group (tag {tag}, {Length:N0} bytes)"
            : $"Recv from {(Peer < 0 ? "any rank" : $"rank {Peer}")} of the group (tag {tag})";
    }
}

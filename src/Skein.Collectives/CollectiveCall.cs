using System.Buffers;

namespace Skein.Collectives;

/// <summary>One call of a collective on one rank: its arguments as plain memory, and who waits for it.</summary>
internal sealed unsafe class CollectiveCall
{
    public CollectiveKind Kind;
    public ElementType Type;
    public ReduceOperation Operation;
    public AllReduceAlgorithm Algorithm;
    public int Root;

    /// <summary>Elements, as the signature shows them: the whole buffer that the ranks agree on.</summary>
    public long Count;

    public byte* Input;
    public byte* Output;

    /// <summary>Elements that this rank sends to each rank (all-to-all) or that each rank contributes (all-gather).</summary>
    public long[] SendCounts = [];

    /// <summary>Elements that this rank receives from each rank (all-to-all).</summary>
    public long[] ReceiveCounts = [];

    /// <summary>A hash of counts that all ranks must agree on; 0 for equal sizes.</summary>
    public long Layout;

    /// <summary>Set for asynchronous calls.</summary>
    public CollectiveHandle? Handle;

    /// <summary>What keeps the buffers of an asynchronous call in place.</summary>
    public MemoryHandle InputPin, OutputPin;

    public int ElementSize => Type.Size();

    /// <summary>The divisor of an average at its last step, else 1.</summary>
    public int Divisor(int worldSize) => Operation == ReduceOperation.Average ? worldSize : 1;

    /// <summary>Forgets the last call, so that the object can serve the next.</summary>
    public void Reset(CollectiveKind kind, ElementType type)
    {
        Kind = kind;
        Type = type;
        Operation = default;
        Algorithm = default;
        Root = 0;
        Count = 0;
        Input = Output = null;
        Layout = 0;
        Handle = null;
    }

    /// <summary>Lets go of the buffers of an asynchronous call.</summary>
    public void Unpin()
    {
        InputPin.Dispose();
        OutputPin.Dispose();
    }
}

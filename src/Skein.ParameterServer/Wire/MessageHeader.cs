using System.Runtime.InteropServices;

namespace Skein.ParameterServer.Wire;

/// <summary>What a message between a worker and a server shard, or between a primary and its backup, is.</summary>
internal enum MessageKind : byte
{
    /// <summary>The layout that the sender expects of the shard, as JSON. Answered by <see cref="Opened"/>.</summary>
    Open = 1,

    /// <summary>Initial values of all dense parameters; the first ones count. Answered by <see cref="Acknowledged"/>.</summary>
    Initialize,

    /// <summary>Gradients of one step. Answered by <see cref="Acknowledged"/> once no single failure can lose it.</summary>
    Push,

    /// <summary>Asks for the dense parameters, when the consistency allows. Answered by <see cref="Parameters"/>.</summary>
    Pull,

    /// <summary>Asks for rows of a table. Answered by <see cref="Rows"/>.</summary>
    PullRows,

    /// <summary>The worker pushes no more: nobody waits for it from now on. Answered by <see cref="Acknowledged"/>.</summary>
    Leave,

    /// <summary>
    /// Loads the checkpoint of this version, one of those that <see cref="Opened"/> named behind its header, unless the shard has
    /// its values. Answered by <see cref="Acknowledged"/>.
    /// </summary>
    Restore,

    /// <summary>A worker that had left pushes again, from this clock on. Answered by <see cref="Acknowledged"/>.</summary>
    Return,

    /// <summary>The answers.</summary>
    Opened = 64,
    Acknowledged,
    Parameters,
    Rows,

    /// <summary>The request was refused for the reason in the payload, as UTF-8; nothing of it was applied.</summary>
    Refused,

    /// <summary>As <see cref="Refused"/>, since the worker's view of the shards is outdated: it asks again with a newer one.</summary>
    Superseded,
}

/// <summary>Qualities of a message.</summary>
[Flags]
internal enum MessageFlags : byte
{
    None = 0,

    /// <summary>The worker already has this version: no payload follows.</summary>
    NotModified = 1,

    /// <summary>Someone asks that training ends after this step.</summary>
    Stop = 2,

    /// <summary>A push that lacks some slices: before the values comes a byte for each slice, 1 where it has a gradient.</summary>
    Partial = 4,

    /// <summary>The shard has its initial values.</summary>
    Initialized = 8,
}

/// <summary>The 64 bytes before every payload, little-endian. Fields that a kind does not use are 0.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
internal struct MessageHeader
{
    public const int Size = 64;

    public MessageKind Kind;
    public MessageFlags Flags;

    /// <summary>In a push: the number of tables that rows follow for. In a pull of rows: the table.</summary>
    public ushort Tables;

    public int Worker;

    /// <summary>Chosen by who asks, repeated in the answer.</summary>
    public long Sequence;

    /// <summary>The number of steps that the worker had pushed before this one.</summary>
    public long Clock;

    /// <summary>The chunk of data that the gradients come from, or -1: the same chunk is never applied twice.</summary>
    public long Chunk;

    /// <summary>The updates in the parameters: in a pull those that the worker has, in an answer those that are sent.</summary>
    public long Version;

    public double Loss;
    public double LearningRate;

    /// <summary>The bytes that follow.</summary>
    public long PayloadBytes;
}

namespace Skein.Collectives.Rendezvous;

internal enum StoreOperation : byte
{
    Set = 1,
    Get = 2,
    Add = 3,
    CompareAndSet = 4,
    Delete = 5,
}

/// <summary>What a <see cref="TcpStore"/> asks; requests of one connection may be answered in any order.</summary>
/// <param name="Operation">Which fields count depends on it.</param>
/// <param name="Id">Chosen by the client, repeated in the reply.</param>
/// <param name="Key">The key.</param>
/// <param name="Number">Add: the delta. Get: the longest wait in milliseconds.</param>
/// <param name="Expected">CompareAndSet: the expected value, or null for "absent".</param>
/// <param name="Value">Set and CompareAndSet: the new value.</param>
internal sealed record StoreRequest(
    StoreOperation Operation, int Id, string Key, long Number = 0, ReadOnlyMemory<byte>? Expected = null, ReadOnlyMemory<byte> Value = default)
{
    /// <summary>The longest request, in bytes: two values, a key and the fixed part.</summary>
    public const int MaximumLength = (2 * Store.MaximumValueLength) + Store.MaximumKeyLength + 64;

    public byte[] Encode()
    {
        var writer = new FrameWriter();
        writer.WriteByte((byte)Operation);
        writer.WriteInt32(Id);
        writer.WriteText(Key);
        switch (Operation)
        {
            case StoreOperation.Set:
                writer.WriteBytes(Value.Span);
                break;
            case StoreOperation.Get or StoreOperation.Add:
                writer.WriteInt64(Number);
                break;
            case StoreOperation.CompareAndSet:
                writer.WriteByte(Expected is null ? (byte)0 : (byte)1);
                if (Expected is { } expected) writer.WriteBytes(expected.Span);
                writer.WriteBytes(Value.Span);
                break;
        }

        return writer.ToFrame();
    }

    /// <exception cref="InvalidDataException">It is not a well-formed request.</exception>
    public static StoreRequest Decode(ReadOnlySpan<byte> content)
    {
        var reader = new FrameReader(content);
        var operation = (StoreOperation)reader.ReadByte();
        int id = reader.ReadInt32();
        string key = reader.ReadText(Store.MaximumKeyLength);
        var request = new StoreRequest(operation, id, key);
        switch (operation)
        {
            case StoreOperation.Set:
                request = request with { Value = reader.ReadBytes(Store.MaximumValueLength).ToArray() };
                break;
            case StoreOperation.Get or StoreOperation.Add:
                request = request with { Number = reader.ReadInt64() };
                break;
            case StoreOperation.CompareAndSet:
                bool hasExpected = reader.ReadByte() != 0;
                if (hasExpected) request = request with { Expected = reader.ReadBytes(Store.MaximumValueLength).ToArray() };
                request = request with { Value = reader.ReadBytes(Store.MaximumValueLength).ToArray() };
                break;
            case StoreOperation.Delete:
                break;
            default:
                throw new InvalidDataException($"unknown store operation {(byte)operation}");
        }

        reader.End();
        return request;
    }
}

internal enum StoreStatus : byte
{
    Done = 1,

    /// <summary>Get: nobody set the key in time.</summary>
    TimedOut = 2,

    /// <summary>Add: the value is not an integer.</summary>
    NotAnInteger = 3,
}

/// <summary>The answer to the request with the same id.</summary>
/// <param name="Id">The request's.</param>
/// <param name="Status">Whether it was carried out.</param>
/// <param name="Number">Add: the sum. CompareAndSet and Delete: 1 for true.</param>
/// <param name="Value">Get: the value.</param>
internal sealed record StoreReply(int Id, StoreStatus Status, long Number = 0, ReadOnlyMemory<byte> Value = default)
{
    /// <summary>The longest reply, in bytes.</summary>
    public const int MaximumLength = Store.MaximumValueLength + 64;

    public byte[] Encode()
    {
        var writer = new FrameWriter();
        writer.WriteInt32(Id);
        writer.WriteByte((byte)Status);
        writer.WriteInt64(Number);
        writer.WriteBytes(Value.Span);
        return writer.ToFrame();
    }

    /// <exception cref="InvalidDataException">It is not a well-formed reply.</exception>
    public static StoreReply Decode(ReadOnlySpan<byte> content)
    {
        var reader = new FrameReader(content);
        var reply = new StoreReply(
            reader.ReadInt32(), (StoreStatus)reader.ReadByte(), reader.ReadInt64(), reader.ReadBytes(Store.MaximumValueLength).ToArray());
        reader.End();
        return reply;
    }
}

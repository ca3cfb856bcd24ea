using System.Diagnostics.CodeAnalysis;
using System.Globalization;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Skein.Collectives;

/// <summary>The collectives, as they are numbered on the wire.</summary>
internal enum CollectiveKind : byte
{
    AllReduce = 1,
    ReduceScatter,
    AllGather,
    Broadcast,
    Reduce,
    Gather,
    Scatter,
    AllToAll,
    Barrier,
}

/// <summary>
/// What all ranks must agree on in a call. It goes ahead of the first bytes on every stream that the call uses, so
/// that ranks which call different things find out instead of exchanging nonsense.
/// </summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
internal struct CallSignature : IEquatable<CallSignature>
{
    public static int Size => Unsafe.SizeOf<CallSignature>();

    private const uint MagicValue = 0x534B_4E31;

    public uint Magic;
    public uint Group;
    public long Sequence;
    public CollectiveKind Kind;
    public ElementType Type;
    public ReduceOperation Operation;
    public AllReduceAlgorithm Algorithm;
    public int Root;
    public long Count;

    /// <summary>A hash of the counts per rank, for calls with variable sizes.</summary>
    public long Layout;

    public static CallSignature Of(uint group, long sequence, CollectiveCall call) => new()
    {
        Magic = MagicValue,
        Group = group,
        Sequence = sequence,
        Kind = call.Kind,
        Type = call.Type,
        Operation = call.Operation,
        Algorithm = call.Algorithm,
        Root = call.Root,
        Count = call.Count,
        Layout = call.Layout,
    };

    [UnscopedRef]
    public readonly ReadOnlySpan<byte> Bytes =>
        MemoryMarshal.AsBytes(new ReadOnlySpan<CallSignature>(in this));

    public readonly bool Equals(CallSignature other) => Bytes.SequenceEqual(other.Bytes);

    public override readonly bool Equals(object? obj) => obj is CallSignature other && Equals(other);

    public override readonly int GetHashCode() => HashCode.Combine(Group, Sequence, Kind, Count);

    /// <summary>The call as a person would write it: <c>AllReduce #17 (float32 × 1,024, sum, ring)</c>.</summary>
    public override readonly string ToString()
    {
        if (Magic != MagicValue) return "something that is no collective of this version";
        var culture = CultureInfo.InvariantCulture;
        string call = string.Create(culture, $"{Kind} #{Sequence}");
        if (Kind == CollectiveKind.Barrier) return call;
        string arguments = string.Create(culture, $"{Type.ToString().ToLowerInvariant()} × {Count:N0}");
        if (Kind is CollectiveKind.AllReduce or CollectiveKind.ReduceScatter or CollectiveKind.Reduce)
        {
            arguments += ", " + Operation.ToString().ToLowerInvariant();
        }

        if (Kind is CollectiveKind.AllReduce) arguments += ", " + OptionNames.Of(Algorithm);
        if (Kind is CollectiveKind.Broadcast or CollectiveKind.Reduce or CollectiveKind.Gather or CollectiveKind.Scatter)
        {
            arguments += string.Create(culture, $", root {Root}");
        }

        if (Layout != 0) arguments += string.Create(culture, $", counts {Layout & 0xFFFF:x4}");
        return $"{call} ({arguments})";
    }
}

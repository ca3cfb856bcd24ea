using System.Runtime.CompilerServices;

namespace Skein.Collectives;

/// <summary>The element types that collectives carry.</summary>
public enum ElementType : byte
{
    /// <summary><see cref="float"/>, 4 bytes.</summary>
    Float32,

    /// <summary><see cref="double"/>, 8 bytes.</summary>
    Float64,

    /// <summary><see cref="System.Half"/>, 2 bytes.</summary>
    Float16,

    /// <summary><see cref="Collectives.BFloat16"/>, 2 bytes.</summary>
    BFloat16,

    /// <summary><see cref="int"/>, 4 bytes.</summary>
    Int32,

    /// <summary><see cref="long"/>, 8 bytes.</summary>
    Int64,

    /// <summary><see cref="byte"/>, 1 byte.</summary>
    UInt8,
}

/// <summary>Facts about <see cref="ElementType"/>.</summary>
public static class ElementTypes
{
    /// <summary>The element type of <typeparamref name="T"/>.</summary>
    /// <exception cref="NotSupportedException"><typeparamref name="T"/> is none of the seven supported types.</exception>
    public static ElementType Of<T>() where T : unmanaged
    {
        if (typeof(T) == typeof(float)) return ElementType.Float32;
        if (typeof(T) == typeof(double)) return ElementType.Float64;
        if (typeof(T) == typeof(Half)) return ElementType.Float16;
        if (typeof(T) == typeof(BFloat16)) return ElementType.BFloat16;
        if (typeof(T) == typeof(int)) return ElementType.Int32;
        if (typeof(T) == typeof(long)) return ElementType.Int64;
        if (typeof(T) == typeof(byte)) return ElementType.UInt8;
        throw new NotSupportedException(
            $"collectives carry float, double, Half, BFloat16, int, long and byte, not {typeof(T)}");
    }

    /// <summary>Bytes per element.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static int Size(this ElementType type) => type switch
    {
        ElementType.Float64 or ElementType.Int64 => 8,
        ElementType.Float32 or ElementType.Int32 => 4,
        ElementType.Float16 or ElementType.BFloat16 => 2,
        _ => 1,
    };
}

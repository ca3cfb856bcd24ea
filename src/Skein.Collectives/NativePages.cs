using System.Runtime.InteropServices;
using Skein.Collectives.Transports.SharedMemory;

namespace Skein.Collectives;

/// <summary>Page-aligned native memory in huge pages where the system has them, touched before use.</summary>
/// <remarks>The first touch of a fresh 4 KiB page can cost microseconds: far more than the copy into it.</remarks>
internal static unsafe class NativePages
{
    private const nuint HugePage = 2 << 20;

    public static byte* Allocate(nint bytes)
    {
        nuint length = (nuint)Math.Max(bytes, 64);
        nuint alignment = length >= HugePage ? HugePage : 4096;
        length = (length + alignment - 1) / alignment * alignment;
        byte* memory = (byte*)NativeMemory.AlignedAlloc(length, alignment);
        Posix.AdviseHugePages(memory, length);
        NativeMemory.Clear(memory, length);
        return memory;
    }
}

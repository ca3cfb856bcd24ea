using System.Runtime.InteropServices;
using Skein.Collectives.Transports.SharedMemory;

namespace Skein.Collectives;

/// <summary>Page-aligned native memory in huge pages where the system has them, touched before use.</summary>
/// <remarks>The first touch of a fresh 4 KiB page can cost microseconds: far more than the copy into it.</remarks>
internal static unsafe class NativePages
{
    // From which a block is worth calls to the system.
    private const int LargeBlock = 4 << 20;

    private const nuint SmallPage = 4096;
    private const nuint HugePage = 2 << 20;

    public static byte* Allocate(nint bytes)
    {
        byte* memory = Reserve(bytes);
        NativeMemory.Clear(memory, Round(bytes));
        return memory;
    }

    /// <summary>The same, not touched: takes address space only, until it is written.</summary>
    public static byte* Reserve(nint bytes)
    {
        nuint length = Round(bytes);
        byte* memory = (byte*)NativeMemory.AlignedAlloc(length, length >= HugePage ? HugePage : SmallPage);
        Posix.AdviseHugePages(memory, length);
        return memory;
    }

    /// <summary>Gets the pages of memory from <see cref="Reserve"/>, which is about to be written: all in one call, for half of what as many first touches take.</summary>
    public static void Populate(byte* memory, nint bytes) => Posix.PopulatePages(memory, Round(bytes));

    /// <summary>Gives the pages of memory from <see cref="Reserve"/> back to the system. The addresses stay; what they hold is lost.</summary>
    public static void Release(byte* memory, nint bytes) => Posix.DiscardPages(memory, Round(bytes));

    /// <summary>Gives the C library's free memory back to the system, where it can (glibc). Takes milliseconds, and what is needed again is touched for the first time: for after something large was freed.</summary>
    public static void TrimHeap()
    {
        if (OperatingSystem.IsLinux()) Posix.TrimHeap();
    }

    /// <summary>
    /// From now on the C library (glibc) gives large blocks back to the system as soon as they are freed: they no longer leave holes
    /// in the heap, but each new one is touched for the first time.
    /// </summary>
    public static void ReturnLargeBlocks()
    {
        if (OperatingSystem.IsLinux()) Posix.MapBlocksFrom(LargeBlock);
    }

    private static nuint Round(nint bytes)
    {
        nuint length = (nuint)Math.Max(bytes, 64);
        nuint alignment = length >= HugePage ? HugePage : SmallPage;
        return (length + alignment - 1) / alignment * alignment;
    }
}

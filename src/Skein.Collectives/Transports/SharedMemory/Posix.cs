using System.Runtime.InteropServices;

namespace Skein.Collectives.Transports.SharedMemory;

/// <summary>The few system calls of Linux that .NET does not expose. Elsewhere the callers take their portable way.</summary>
internal static unsafe partial class Posix
{
    private const int DiscardAdvice = 4;
    private const int HugePageAdvice = 14;
    private const int PopulateAdvice = 23;
    private const int MappingThreshold = -3;
    private const int MostMappings = -4;
    private const int FutexWait = 0;
    private const int FutexWake = 1;

    private static readonly nint FutexCall = RuntimeInformation.ProcessArchitecture switch
    {
        Architecture.X64 => 202,
        Architecture.Arm64 => 98,
        _ => 0,
    };

    public static bool HasFutex { get; } = OperatingSystem.IsLinux() && FutexCall != 0;

    public static void AdviseHugePages(void* address, nuint length)
    {
        if (OperatingSystem.IsLinux()) _ = madvise(address, length, HugePageAdvice);
    }

    /// <summary>Frees whole pages of private memory; elsewhere than on Linux they stay.</summary>
    public static void DiscardPages(void* address, nuint length)
    {
        if (OperatingSystem.IsLinux()) _ = madvise(address, length, DiscardAdvice);
    }

    /// <summary>Gets whole pages of private memory at once; where Linux is older than 5.14 or not there, they come when they are touched.</summary>
    public static void PopulatePages(void* address, nuint length)
    {
        if (OperatingSystem.IsLinux()) _ = madvise(address, length, PopulateAdvice);
    }

    public static void TrimHeap() => WithGlibc(static () => malloc_trim(0));

    /// <summary>Blocks of so many bytes get a mapping of their own, which ends when they are freed.</summary>
    public static void MapBlocksFrom(int bytes) => WithGlibc(() => mallopt(MappingThreshold, bytes) + mallopt(MostMappings, 1 << 16));

    private static void WithGlibc(Func<int> call)
    {
        try
        {
            _ = call();
        }
        catch (EntryPointNotFoundException)
        {
            // Another C library, which decides for itself.
        }
    }

    /// <summary>Sleeps while <c>*word == expected</c>, for <paramref name="milliseconds"/> at most.</summary>
    public static void Sleep(int* word, int expected, int milliseconds)
    {
        var limit = new TimeSpec { Seconds = milliseconds / 1000, Nanoseconds = milliseconds % 1000 * 1_000_000 };
        _ = syscall(FutexCall, word, FutexWait, expected, &limit, null, 0);
    }

    public static void WakeAll(int* word) => _ = syscall(FutexCall, word, FutexWake, int.MaxValue, null, null, 0);

    /// <summary>A file without a name, in memory; -1 when the kernel refuses.</summary>
    public static int CreateMemoryFile(string name) => memfd_create(name, 1);

    public static int Truncate(int file, long length) => ftruncate(file, length);

    [LibraryImport("libc")]
    private static partial int madvise(void* address, nuint length, int advice);

    [LibraryImport("libc")]
    private static partial int malloc_trim(nuint padding);

    [LibraryImport("libc")]
    private static partial int mallopt(int parameter, int value);

    [LibraryImport("libc")]
    private static partial nint syscall(nint number, int* word, int operation, int value, TimeSpec* timeout, int* word2, int value3);

    [LibraryImport("libc", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int memfd_create(string name, uint flags);

    [LibraryImport("libc")]
    private static partial int ftruncate(int file, long length);

    private struct TimeSpec
    {
        public nint Seconds;
        public nint Nanoseconds;
    }
}

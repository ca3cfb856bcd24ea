using System.Globalization;
using System.Runtime.InteropServices;
using Skein.Collectives;

namespace Skein.Training.Planning;

/// <summary>What this process has in memory, as Linux and the GNU C library count it.</summary>
internal static class ProcessMemory
{
    private const string ResetPeak = "5";

    /// <summary>The bytes in use by native code: what was allocated and not freed.</summary>
    /// <exception cref="PlatformNotSupportedException">Another system, or another C library.</exception>
    public static long InUse
    {
        get
        {
            try
            {
                AllocatorState state = GetAllocatorState();
                return checked((long)(state.InUse + state.Mapped));
            }
            catch (Exception error) when (error is DllNotFoundException or EntryPointNotFoundException)
            {
                throw new PlatformNotSupportedException("memory is measured through the GNU C library (version 2.33 or later) on Linux, which is not here", error);
            }
        }
    }

    /// <summary>The resident size.</summary>
    public static long Resident => Status("VmRSS:");

    /// <summary>The largest resident size since the process began or <see cref="BeginPeak"/>.</summary>
    public static long Peak => Status("VmHWM:");

    /// <summary>Gives freed memory back to the system, and begins to watch the peak anew.</summary>
    /// <returns>The resident size.</returns>
    public static long BeginPeak()
    {
        NativePages.TrimHeap();
        File.WriteAllText("/proc/self/clear_refs", ResetPeak);
        return Resident;
    }

    private static long Status(string field)
    {
        string line = File.ReadLines("/proc/self/status").First(line => line.StartsWith(field, StringComparison.Ordinal));
        return 1024 * long.Parse(line.AsSpan(field.Length, line.Length - field.Length - "kB".Length), NumberStyles.AllowLeadingWhite | NumberStyles.AllowTrailingWhite, CultureInfo.InvariantCulture);
    }

    [DllImport("libc", EntryPoint = "mallinfo2")]
    private static extern AllocatorState GetAllocatorState();

    // The fields of struct mallinfo2.
    [StructLayout(LayoutKind.Sequential)]
    private readonly struct AllocatorState
    {
        private readonly nuint arena, freeChunks, fastChunks, mappings;
        public readonly nuint Mapped;
        private readonly nuint highest, fastBytes;
        public readonly nuint InUse;
        private readonly nuint free, keepable;
    }
}

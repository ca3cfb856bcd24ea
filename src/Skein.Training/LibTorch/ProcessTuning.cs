using System.Runtime;
using System.Runtime.InteropServices;
using Skein.Collectives;
using Skein.Collectives.Rendezvous;

namespace Skein.Training.LibTorch;

/// <summary>
/// Settings of the whole process that make training fast and safe: the number of LibTorch's threads, glibc's allocator and the garbage
/// collector's mode. Only processes that a launcher started as ranks get them, unless the program's own
/// <c>Skein.TunesProcess</c> in <c>runtimeconfig.json</c> (the property <c>SkeinTunesProcess</c> of its project) says otherwise.
/// </summary>
internal static class ProcessTuning
{
    private const string Switch = "Skein.TunesProcess";
    private const string ThreadsVariable = "OMP_NUM_THREADS";

    /// <summary>The program's own choice; null when it made none.</summary>
    internal static bool? Choice => AppContext.TryGetSwitch(Switch, out bool chosen) ? chosen : null;

    /// <summary>Applies the settings where they are due. To be called once, before LibTorch is loaded, which reads its part only then.</summary>
    internal static void Apply()
    {
        bool isRank = LauncherEnvironment.HasRank();
        if (!(Choice ?? isRank)) return;
        GCSettings.LatencyMode = GCLatencyMode.Batch;
        if (!OperatingSystem.IsLinux()) return;
        try
        {
            ShareCores(isRank);
            KeepFreedMemory();
        }
        catch (EntryPointNotFoundException)
        {
            // Another C library than glibc, which has no such settings.
        }
    }

    /// <summary>Turns concurrent collections off until the returned scope is disposed, unless the program chose to be left alone.</summary>
    internal static GCLatencyMode? EnterBatchMode()
    {
        if (Choice == false) return null;
        GCLatencyMode before = GCSettings.LatencyMode;
        GCSettings.LatencyMode = GCLatencyMode.Batch;
        return before;
    }

    // In the C library's own environment, which OpenMP reads and the runtime's copy does not write to. What the user has set stays.
    private static void ShareCores(bool isRank)
    {
        int ranks;
        try
        {
            ranks = isRank ? LauncherEnvironment.Read().LocalWorldSize : 1;
        }
        catch (SkeinException)
        {
            // Whoever joins the job says what is wrong with the environment.
            return;
        }

        _ = SetVariable(ThreadsVariable, $"{CoreShare.Of(ranks)}", overwrite: 0);
    }

    // Tensors come and go with every step. By default glibc maps and unmaps large ones each time, and the kernel then hands out every
    // page anew, which costs more than the arithmetic. With these settings freed memory stays in the process and is used again.
    private static void KeepFreedMemory()
    {
        const int trimThreshold = -1;
        const int mmapMax = -4;
        _ = SetAllocatorOption(mmapMax, 0);
        _ = SetAllocatorOption(trimThreshold, int.MaxValue);
    }

    [DllImport("libc", EntryPoint = "mallopt")]
    private static extern int SetAllocatorOption(int option, int value);

    [DllImport("libc", EntryPoint = "setenv")]
    private static extern int SetVariable(
        [MarshalAs(UnmanagedType.LPUTF8Str)] string name, [MarshalAs(UnmanagedType.LPUTF8Str)] string value, int overwrite);
}

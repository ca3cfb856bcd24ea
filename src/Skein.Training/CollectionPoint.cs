using System.Runtime;
using Skein.Training.LibTorch;

namespace Skein.Training;

/// <summary>
/// Lets garbage be collected between steps rather than in the middle of one. TorchSharp 0.107 hands numbers to native
/// code as objects that nothing keeps alive during the call: a collection that another thread starts in that moment
/// frees them under LibTorch's hands, which then fails with "Expected false to be true … toFloat". Between steps no
/// such call is under way.
/// </summary>
/// <remarks>
/// Only where one training runs in the process: the others' calls would be hit instead. As long as any runs, no collection goes on beside
/// it on a thread of its own, unless the program chose to be left alone (<see cref="ProcessTuning"/>).
/// </remarks>
internal sealed class CollectionPoint : IDisposable
{
    // Well below what makes the runtime collect by itself, and enough for a hundred steps.
    private const long Budget = 512 * 1024;

    private static readonly Lock Entering = new();
    private static int trainings;
    private static GCLatencyMode? modeBefore;
    private long collectedAt = GC.GetTotalAllocatedBytes();

    public CollectionPoint()
    {
        lock (Entering)
        {
            if (trainings++ == 0) modeBefore = ProcessTuning.EnterBatchMode();
        }
    }

    /// <summary>To be called between steps, by the thread that trains.</summary>
    public void Pass()
    {
        long allocated = GC.GetTotalAllocatedBytes();
        if (allocated - collectedAt < Budget || Volatile.Read(ref trainings) > 1) return;
        collectedAt = allocated;
        GC.Collect(0, GCCollectionMode.Forced, blocking: true);
    }

    public void Dispose()
    {
        lock (Entering)
        {
            if (--trainings == 0 && modeBefore is { } mode) GCSettings.LatencyMode = mode;
        }
    }
}

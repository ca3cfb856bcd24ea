using System.Runtime.CompilerServices;

namespace Skein.Collectives;

/// <summary>
/// A collective in flight. Await it, or block in <see cref="Wait"/>; the buffers passed to the call must be left
/// alone until then. Handles of one group complete in the order of the calls. Thread-safe.
/// </summary>
public sealed class CollectiveHandle
{
    private readonly TaskCompletionSource completion = new(TaskCreationOptions.RunContinuationsAsynchronously);

    internal CollectiveHandle() { }

    /// <summary>True once the call has finished, well or not.</summary>
    public bool IsCompleted => completion.Task.IsCompleted;

    /// <summary>The call as a task.</summary>
    public Task AsTask() => completion.Task;

    /// <summary>Blocks until the call has finished.</summary>
    /// <exception cref="SkeinException">The call failed; the group is failed with it.</exception>
    public void Wait() => completion.Task.GetAwaiter().GetResult();

    /// <summary>Supports <c>await</c>.</summary>
    public TaskAwaiter GetAwaiter() => completion.Task.GetAwaiter();

    internal void Complete() => completion.SetResult();

    internal void Fail(Exception error) => completion.SetException(error);
}

using Skein.Collectives;

namespace Skein.Training;

/// <summary>Runs a piece of training on a thread of its own, so that none of it moves between threads of the pool.</summary>
internal static class TrainingThread
{
    // LibTorch's backward pass recurses in places; the main thread's usual size is what it is tested with.
    private const int StackBytes = 8 << 20;

    public static async Task<T> Run<T>(string name, Func<T> body)
    {
        var completion = new TaskCompletionSource<T>(TaskCreationOptions.RunContinuationsAsynchronously);
        var thread = new Thread(
            () =>
            {
                try
                {
                    T result = body();
                    // Threads of their own have heaps of their own: what is free in this one's would be of no use to the next.
                    NativePages.TrimHeap();
                    completion.SetResult(result);
                }
                catch (Exception error)
                {
                    completion.SetException(error);
                }
            },
            StackBytes)
        {
            Name = name,
            IsBackground = true,
        };
        thread.Start();
        // An OperationCanceledException makes this method's task a cancelled one, and stays what it is for who awaits it.
        return await completion.Task.ConfigureAwait(false);
    }
}
